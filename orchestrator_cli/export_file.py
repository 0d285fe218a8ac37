"""An export as a file: lines of runs in order, and a manifest over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import BinaryIO

from orchestrator_cli.export_line import Part, Wrong, parse
from orchestrator_cli.exported_run import ExportedRun, check_run
from shared.domain.models import JsonObject


class WrongLine(Exception):
    """The first line of a file that is not as it must be."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"line {number}: {what}")


@dataclass(slots=True)
class Verified:
    """What was found to be in order."""

    runs: int = 0
    steps: int = 0
    events: int = 0


def verify(file: BinaryIO) -> Verified:
    """Check an export, a line in memory at a time; raises WrongLine, or OSError when it cannot be read."""
    found = Verified()
    before: ExportedRun | None = None
    digest = sha256()
    number = 0
    complete = False
    for number, line in enumerate(file, start=1):
        try:
            if complete:
                raise Wrong("comes after the manifest")
            if not line.endswith(b"\n"):
                raise Wrong("is cut off: it does not end with a line feed")
            document = parse(line[:-1])
            if "manifest" in document:
                _check_manifest(document, found.runs, digest.hexdigest())
                complete = True
                continue
            run = check_run(document)
            _check_order(before, run)
        except Wrong as error:
            raise WrongLine(number, str(error)) from None
        digest.update(line)
        before = run
        found.runs += 1
        found.steps += run.steps
        found.events += run.events
    if not complete:
        raise WrongLine(number + 1, "is missing: the file ends before its manifest")
    return found


def _check_manifest(document: JsonObject, count: int, digest: str) -> None:
    if len(document) > 1:
        raise Wrong("the manifest does not stand alone")
    manifest = Part.of(document["manifest"], "the manifest")
    manifest.expect("count", count)
    manifest.expect("sha256", digest)
    if len(manifest.members) > 2:
        raise Wrong("the manifest has other members than count and sha256")


def _check_order(before: ExportedRun | None, run: ExportedRun) -> None:
    if before is None:
        return
    if run.tenant != before.tenant:
        raise Wrong(f"run {run.run_id} is another tenant's than the run before it")
    if (run.started_utc, run.run_id) <= (before.started_utc, before.run_id):
        raise Wrong(f"run {run.run_id} does not come after run {before.run_id}, by startedUtc and runId")
