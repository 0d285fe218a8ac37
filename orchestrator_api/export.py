"""Write runs as an export: a line of JSON a run, and a last line over the bytes of all the others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256

from orchestrator_api import render
from shared.domain.models import RunFilter, TenantId
from shared.services import export
from shared.services.export import WholeRun
from shared.store.db import Database
from shared.store.events import Event

_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


@contextmanager
def open_export(db: Database, tenant: TenantId, wanted: RunFilter) -> Iterator[Iterator[bytes]]:
    """Open the export of the wanted runs, in pieces of its lines: a run may be too large to hold."""
    with export.open_runs(db, tenant, wanted) as runs:
        yield _pieces(runs)


def _pieces(runs: Iterable[WholeRun]) -> Iterator[bytes]:
    digest = sha256()
    count = 0
    for whole in runs:
        count += 1
        for piece in _line(whole):
            digest.update(piece)
            yield piece
    yield _json({"manifest": {"count": count, "sha256": digest.hexdigest()}}) + b"\n"


def _line(whole: WholeRun) -> Iterator[bytes]:
    """Write a run. Equal rows give equal bytes: members in the order of the code, numbers as stored."""
    head = {**render.run(whole.run), "specHash": whole.spec_hash, "inputs": whole.inputs}
    yield _json(head)[:-1] + b',"steps":['
    comma = b""
    for step, attempts in whole.steps:
        yield comma + _json(render.step(step, attempts))
        comma = b","
    yield b'],"events":['
    comma = b""
    for event in whole.events:
        yield comma + _with_hash(event)
        comma = b","
    yield b"]}\n"


def _with_hash(event: Event) -> bytes:
    """Put the hash behind the members of the stored line, whose text is what was hashed."""
    return f'{event.line[:-1]},"hash":"{event.hash}"}}'.encode()


def _json(value: object) -> bytes:
    """Write a value in ASCII: many programs take U+2028 and its kind for the end of a line."""
    return _ENCODER.encode(value).encode("ascii")
