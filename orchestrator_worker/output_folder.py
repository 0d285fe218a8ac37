"""Turn what a command left in its output folder into outputs and artifacts."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator_worker.step_context import MAX_NAME_BYTES
from shared.artifacts import ArtifactTooLarge
from shared.domain.models import ArtifactRef, Json, JsonObject
from shared.domain.states import ErrorCode
from shared.plugins import PluginFailed, StepContext

OUTPUTS_FILE = "outputs.json"
RESERVED = ("exitCode", "files", "stdout")
MAX_FILES = 1_000


class OutputRefused(Exception):
    """What the command left cannot be recorded; ``failure`` is what the step fails with."""

    def __init__(self, message: str, code: ErrorCode = ErrorCode.PLUGIN_ERROR) -> None:
        super().__init__(message)
        self.failure = PluginFailed(error_code=code, message=message, retryable=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The members of ``outputs.json``, and the other files as stored."""

    members: JsonObject
    artifacts: tuple[ArtifactRef, ...]


def collect(folder: Path, context: StepContext) -> Collected:
    """Read ``outputs.json`` and store every other regular file; raises OutputRefused.

    The command's processes must have ended: nothing here changes any more. Links and special
    files are passed over, with a line in the log.
    """
    members = _read_members(folder / OUTPUTS_FILE, context.limits.max_outputs_bytes)
    names: list[str] = []
    for name in _regular_files(folder, context):
        names.append(name)
        if len(names) > MAX_FILES:
            raise OutputRefused(
                f"the command left more than {MAX_FILES} output files; pack them into one",
                ErrorCode.OUTPUTS_TOO_LARGE,
            )
    return Collected(
        members=members, artifacts=tuple(_store(folder, name, context) for name in sorted(names))
    )


def _store(folder: Path, name: str, context: StepContext) -> ArtifactRef:
    try:
        return context.put_artifact(name, folder / name)
    except ArtifactTooLarge as error:
        raise OutputRefused(f"output file {name!r}: {error}", ErrorCode.OUTPUTS_TOO_LARGE) from error
    except ValueError as error:
        raise OutputRefused(f"output file: {error}") from error


def _read_members(path: Path, max_bytes: int) -> JsonObject:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutputRefused(f"{OUTPUTS_FILE} cannot be read: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OutputRefused(f"{OUTPUTS_FILE} is no regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    finally:
        os.close(descriptor)
    if len(data) > max_bytes:
        raise OutputRefused(f"{OUTPUTS_FILE} is over {max_bytes} bytes", ErrorCode.OUTPUTS_TOO_LARGE)
    try:
        members = parse_json(data)
    except (ValueError, RecursionError) as error:
        raise OutputRefused(f"{OUTPUTS_FILE} is no sound JSON: {error}") from error
    if not isinstance(members, dict):
        raise OutputRefused(f"{OUTPUTS_FILE} must be a JSON object")
    for name in RESERVED:
        if name in members:
            raise OutputRefused(f"{OUTPUTS_FILE} has a member {name!r}, which is set by the plugin itself")
    return members


def parse_json(data: bytes) -> Json:
    """Parse JSON that two programs cannot read differently; raises ValueError or RecursionError."""
    value: Json = json.loads(data.decode(), parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    return value


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON number")


def _no_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("an object has two members of the same name")
    return members


def _regular_files(folder: Path, context: StepContext) -> Iterator[str]:
    """Give the names of all files but ``outputs.json``, relative to ``folder``; links are not followed."""
    open_folders = [""]
    while open_folders:
        prefix = open_folders.pop()
        if len(os.fsencode(prefix)) > MAX_NAME_BYTES:
            # No file below it could be kept, and further down the system does not take the path.
            raise OutputRefused(f"an output folder's name is over {MAX_NAME_BYTES} bytes: {prefix[:64]!r}...")
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    open_folders.append(name + "/")
                elif not entry.is_file(follow_symlinks=False):
                    context.log.line(f"not kept: output file {name!r} is a link or a special file")
                elif name != OUTPUTS_FILE:
                    yield name
