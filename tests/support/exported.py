"""Exports of a real ledger, and the two programs that verify them, which share no code."""

from __future__ import annotations

import importlib.util
import io
import json
import re
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from orchestrator_api.export import open_export
from orchestrator_cli.export_file import WrongLine, verify
from shared.domain.models import Json, JsonObject, Released, RunFilter, Stopped
from shared.services import runs
from tests.support.graphs import graph
from tests.support.ledger import Ledger, failed, succeeded

SCRIPT = Path(__file__).parents[2] / "examples" / "verify-ledger" / "verify_ledger.py"
ALL = RunFilter()

Line = dict[str, Any]


class Export(bytes):
    """The bytes of an export; a failing test shows their number, not all of them."""

    def __repr__(self) -> str:
        return f"<an export of {len(self)} bytes>"


def load_script() -> ModuleType:
    """Load the example as a module."""
    spec = importlib.util.spec_from_file_location("verify_ledger", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


def exported(ledger: Ledger, wanted: RunFilter = ALL) -> Export:
    """Export the ledger of a tenant."""
    with open_export(ledger.api, ledger.tenant, wanted) as pieces:
        return Export(b"".join(pieces))


def wrong_line(data: bytes) -> int | None:
    """Have both programs look at a file, which must agree; give the line that they name."""
    ours = theirs = None
    try:
        verify(io.BytesIO(data))
    except WrongLine as error:
        ours = str(error)
    try:
        script.check_file(io.BytesIO(data))
    except script.WrongError as error:
        theirs = str(error)
    assert _number(ours) == _number(theirs), f"orch says {ours}, the example {theirs}"
    for said in (ours, theirs):
        assert said is None or (said.isascii() and said.isprintable()), said
    return _number(ours)


def _number(said: str | None) -> int | None:
    if said is None:
        return None
    match = re.match(r"line (\d+): ", said)
    assert match is not None, said
    return int(match[1])


def sealed(lines: list[Line]) -> bytes:
    """Write lines anew, with a manifest that is true of them."""
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return data + manifest(data, len(lines))


def manifest(data: bytes, count: int) -> bytes:
    """Write the last line of an export."""
    return json.dumps({"manifest": {"count": count, "sha256": sha256(data).hexdigest()}}).encode() + b"\n"


def fill(ledger: Ledger) -> None:
    """Leave runs that completed, failed, were cancelled, are under way; attempts lost, retried, released."""
    _completed(ledger)
    _failed(ledger)
    _lost(ledger)
    _cancelled(ledger)
    ledger.start(graph("a>b", dag_id="waiting"))


def _completed(ledger: Ledger) -> None:
    options: dict[str, JsonObject] = {
        "off": {"disabled": True},
        "asked": {"when": "true"},
        "told-not-to": {"when": "false"},
    }
    dag = graph("a>b a>off a>asked a>told-not-to", dag_id="completed", options=options)
    odd: Json = {
        "\ufb33": 1,
        "\U0001f600": [1e-7, 1e21, 0.1, -0.0, 100.0, 5e-324, 1e20, 2**53 - 1],
        'é\n\u007f"': None,
    }
    run = ledger.start(dag, inputs={"text": "naïve \u2028 \\ /", "odd": odd, "empty": [{}, [], ""]})
    ledger.run_step(run, "a", succeeded({"odd": odd, "yes": True, "large": 10**22}))
    ledger.decide(run, unlock=["asked"], skip=["told-not-to"])
    ledger.run_step(run, "asked")
    ledger.run_step(run, "b", succeeded({"n": 1.0}))


def _failed(ledger: Ledger) -> None:
    options: dict[str, JsonObject] = {
        "a": {"retry": {"maxAttempts": 3}},
        "clean": {"runOn": "always"},
        "mend": {"runOn": "failure"},
    }
    dag = graph("a>b b>clean a>mend", dag_id="failed", options=options)
    run = ledger.start(dag, run_token='a "token" \u00e9')
    ledger.run_step(run, "a", failed(retry_delay_ms=0))
    ledger.wake()
    ledger.run_step(run, "a", failed())
    ledger.run_step(run, "mend")
    ledger.run_step(run, "clean")


def _lost(ledger: Ledger) -> None:
    run = ledger.start(graph("a>b", dag_id="lost"))
    ledger.claimed(run, "a", lease_ms=0)
    ledger.rescue()
    ledger.complete(ledger.claimed(run, "a"), Released())
    ledger.run_step(run, "a", succeeded({"third": "time"}))
    ledger.run_step(run, "b")


def _cancelled(ledger: Ledger) -> None:
    run = ledger.start(graph("a>c b>c", dag_id="cancelled"))
    ledger.run_step(run, "a", succeeded({"done": True}))
    claim = ledger.claimed(run, "b")
    runs.cancel(ledger.api, ledger.tenant, run.run_id, reason="enough")
    ledger.complete(claim, Stopped())
