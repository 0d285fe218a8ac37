"""The demonstration: audit the environment that the orchestrator runs in, and watch the steps go.

It is a client like any other: all it does goes through the REST API. Who calls
it has started the stack and stops it afterwards.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TypedDict, cast
from uuid import uuid4

import httpx
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

EXAMPLE = Path(__file__).parents[1] / "examples" / "environment-audit"
RESULTS = {"report": "report.md", "sbom": "sbom.cdx.json", "failure-report": "failure.md"}
"""The files worth keeping, by the step that writes them."""
LIMIT_S = 300
POLL_S = 0.05
COLOURS = {"succeeded": "green", "failed": "red", "running": "yellow", "retrying": "yellow", "skipped": "dim"}


class DemoFailed(Exception):
    """The demonstration cannot go on; the message says why, for the person at the terminal."""


class StepView(TypedDict):
    stepId: str
    status: str
    errorCode: str | None
    errorMessage: str | None
    startedUtc: str | None
    endedUtc: str | None


class RunView(TypedDict):
    runId: str
    status: str
    steps: list[StepView]


def run_audit(api: httpx.Client, *, results: Path, console: Console) -> bool:
    """Publish the audit, run it, show its steps, save what it wrote; tell whether the run completed.

    ``api`` has ``.../api/v1/orchestrator`` as its base and bears a tenant and a token with all three scopes.
    """
    if not EXAMPLE.is_dir():
        raise DemoFailed(f"the example is not where it should be, in {EXAMPLE}: run this from a clone")
    definition = json.loads((EXAMPLE / "dag.json").read_text(encoding="utf-8"))
    _send(api, "/dags", definition)
    inputs = {"python": sys.executable, "scripts": str(EXAMPLE / "scripts")}
    started = cast(RunView, _send(api, "/runs", {"dagId": definition["dagId"], "inputs": inputs}))
    console.print(f"Run {started['runId']} audits {sys.prefix}", soft_wrap=True)
    run = _show(_follow(api, started["runId"]), console)
    saved = _save(api, run, results)
    console.print(
        f"The run {run['status']}" if run["status"] != "running" else "The run goes on", soft_wrap=True
    )
    for path in saved:
        console.print(f"  {path}", soft_wrap=True, highlight=False)
    return run["status"] == "completed"


def _follow(api: httpx.Client, run_id: str) -> Iterator[RunView]:
    """Ask for the run again and again until it has ended; the last one given is the ended one."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        run = cast(RunView, _answer(api.get(f"/runs/{run_id}")))
        yield run
        if run["status"] != "running":
            return
        if time.monotonic() > deadline:
            raise DemoFailed(f"run {run_id} has not ended after {LIMIT_S} s")
        time.sleep(POLL_S)


def _show(looks: Iterator[RunView], console: Console) -> RunView:
    """Show each look at the run: a live table on a terminal, else a line for each change of a step."""
    known: dict[str, str] = {}
    with ExitStack() as stack:
        live = stack.enter_context(Live(console=console, auto_refresh=False)) if console.is_terminal else None
        for run in looks:
            if live is not None:
                live.update(_table(run["steps"]), refresh=True)
                continue
            for step in run["steps"]:
                if step["status"] not in ("pending", "queued", known.get(step["stepId"])):
                    known[step["stepId"]] = step["status"]
                    console.print(
                        f"  {step['stepId']:15} {_told(step)}", soft_wrap=True, highlight=False, markup=False
                    )
    return run


def _table(steps: list[StepView]) -> Table:
    table = Table("step", "status", "seconds", "", box=None, pad_edge=False)
    for step in steps:
        status = Text(step["status"], style=COLOURS.get(step["status"], ""))
        table.add_row(step["stepId"], status, _seconds(step), Text(_reason(step), overflow="fold"))
    return table


def _told(step: StepView) -> str:
    """Say in a line how the step stands."""
    seconds = _seconds(step)
    return " ".join(part for part in (step["status"], seconds and f"{seconds} s", _reason(step)) if part)


def _seconds(step: StepView) -> str:
    if step["startedUtc"] is None or step["endedUtc"] is None:
        return ""
    took = datetime.fromisoformat(step["endedUtc"]) - datetime.fromisoformat(step["startedUtc"])
    return f"{took.total_seconds():.2f}"


def _reason(step: StepView) -> str:
    return step["errorMessage"] or step["errorCode"] or ""


def _save(api: httpx.Client, run: RunView, results: Path) -> list[Path]:
    """Fetch the files worth keeping from the steps that wrote them."""
    results.mkdir(parents=True, exist_ok=True)
    saved: list[Path] = []
    for step in run["steps"]:
        name = RESULTS.get(step["stepId"])
        if name is None or step["status"] != "succeeded":
            continue
        detail = _answer(api.get(f"/runs/{run['runId']}/steps/{step['stepId']}"))
        files = cast(dict[str, dict[str, dict[str, str]]], detail["outputs"])["files"]
        path = results / name
        artifact = api.get(f"/artifacts/{files[name]['hash']}")
        if artifact.is_error:
            _answer(artifact)
        path.write_bytes(artifact.content)
        saved.append(path)
    return saved


def _send(api: httpx.Client, path: str, body: object) -> dict[str, object]:
    return _answer(api.post(path, json=body, headers={"Idempotency-Key": str(uuid4())}))


def _answer(response: httpx.Response) -> dict[str, object]:
    """Give the body of a success; say what an error says."""
    if response.is_error:
        raise DemoFailed(f"{response.request.url.path} answered {response.status_code}: {response.text}")
    return cast(dict[str, object], response.json())
