"""The plugin ``command``: run a program in a private folder."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar

from orchestrator_worker import output_folder, sandbox
from shared.domain.models import Json, JsonObject, Sha256
from shared.domain.states import ErrorCode
from shared.errors import ArtifactNotFound
from shared.plugins import PluginFailed, PluginResult, PluginStopped, PluginSucceeded, StepContext

MAX_STDOUT_BYTES = 65_536
TAIL_BYTES = 4_096
TAIL_LINES = 10
TAIL_CHARACTERS = 1_000
SCALAR: JsonObject = {"type": ["string", "integer", "number", "boolean"]}


class CommandPlugin:
    """Run ``argv`` (a list, never a shell's string) and record what it leaves in ``ORCH_OUTPUT_DIR``."""

    name: ClassVar[str] = "command"
    version: ClassVar[str] = "1.0.0"
    schema: ClassVar[JsonObject] = {
        "type": "object",
        "properties": {
            "argv": {"type": "array", "items": SCALAR, "minItems": 1},
            "env": {
                "type": "object",
                "propertyNames": {"pattern": "^(?!ORCH_|TRACEPARENT$)[A-Za-z_][A-Za-z0-9_]*$"},
                "additionalProperties": SCALAR,
            },
            "inputFiles": {
                "type": "object",
                "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            },
            "captureStdout": {"type": "boolean"},
        },
        "required": ["argv"],
        "additionalProperties": False,
    }
    needs_network: ClassVar[bool] = False
    retryable: ClassVar[str] = (
        "A non-zero exit status, an ending by a signal and a time-out are; a program that cannot be "
        "started, an input file that does not exist and outputs that cannot be recorded are not."
    )

    def run(self, params: JsonObject, context: StepContext) -> PluginResult:
        base = context.work_dir()
        work, output, temporary = base / "work", base / "out", base / "tmp"
        for folder in (work, output, temporary):
            folder.mkdir()
        try:
            _place_inputs(_object(params.get("inputFiles")), work, context)
            command = sandbox.Command(
                argv=[_text(item) for item in _list(params["argv"])],
                env=_environment(_object(params.get("env")), base, context),
                cwd=work,
                folder=base,
            )
            if any("\0" in text for text in (*command.argv, *command.env.values())):
                return _refused("an argument or a value of `env` holds a NUL character")
            return self._run(command, output, context, capture=params.get("captureStdout") is True)
        except output_folder.OutputRefused as refusal:
            return refusal.failure

    def _run(
        self, command: sandbox.Command, output: Path, context: StepContext, *, capture: bool
    ) -> PluginResult:
        stdout, tail_out, tail_err = bytearray(), _Tail(), _Tail()

        def on_stdout(chunk: bytes) -> None:
            context.log.write(chunk)
            tail_out.add(chunk)
            if capture:
                # One byte over the limit is enough to know that it is over.
                stdout.extend(chunk[: MAX_STDOUT_BYTES + 1 - len(stdout)])

        def on_stderr(chunk: bytes) -> None:
            context.log.write(chunk)
            tail_err.add(chunk)

        ending = sandbox.run(
            command,
            stop=context.stop,
            kill_grace_seconds=context.limits.kill_grace_seconds,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
        )
        # A program may answer SIGTERM with exit status 0: that does not make its work done.
        if context.stop.reason is not None:
            return PluginStopped()
        if ending != sandbox.Exited(0):
            return _failure(ending, command.argv[0], tail_err.text() or tail_out.text())
        outputs: dict[str, Json] = {"exitCode": 0}
        if capture:
            outputs["stdout"] = _captured(bytes(stdout))
        collected = output_folder.collect(output, context)
        outputs["files"] = {
            artifact.name: {"hash": artifact.sha256, "size": artifact.size_bytes}
            for artifact in collected.artifacts
        }
        return PluginSucceeded(outputs={**collected.members, **outputs}, artifacts=collected.artifacts)


class _Tail:
    """The end of a stream, for the message of a failure."""

    def __init__(self) -> None:
        self._end = b""

    def add(self, chunk: bytes) -> None:
        self._end = (self._end + chunk)[-TAIL_BYTES:]

    def text(self) -> str:
        lines = self._end.decode(errors="replace").strip().splitlines()[-TAIL_LINES:]
        return "\n".join(lines)[-TAIL_CHARACTERS:]


def _failure(ending: sandbox.Ending, program: str, tail: str) -> PluginFailed:
    match ending:
        case sandbox.NotStarted(errno):
            return _refused(f"cannot start {program!r}: {os.strerror(errno)}")
        case sandbox.KeeperLost():
            return PluginFailed(
                error_code=ErrorCode.PLUGIN_ERROR,
                message="the process that watches over the command was killed, and the command with it",
                retryable=True,
            )
        case sandbox.Killed(number):
            return _ended(f"ended by {_signal_name(number)}", tail)
        case sandbox.Exited(status):
            return _ended(f"exit status {status}", tail)


def _ended(how: str, tail: str) -> PluginFailed:
    message = f"{how}: {tail}" if tail else how
    return PluginFailed(error_code=ErrorCode.EXIT_STATUS, message=message, retryable=True)


def _refused(message: str) -> PluginFailed:
    return PluginFailed(error_code=ErrorCode.PLUGIN_ERROR, message=message, retryable=False)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # Real-time signals have no names of their own.
        return f"signal {number}"


def _captured(stdout: bytes) -> str:
    """Give the output without its last line ends, as a shell's ``$(...)`` does."""
    if len(stdout) > MAX_STDOUT_BYTES:
        message = f"stdout is over {MAX_STDOUT_BYTES} bytes; write large results to a file in ORCH_OUTPUT_DIR"
        raise output_folder.OutputRefused(message, ErrorCode.OUTPUTS_TOO_LARGE)
    return stdout.decode(errors="replace").replace("\0", "\ufffd").rstrip("\r\n")


def _environment(own: Mapping[str, Json], base: Path, context: StepContext) -> dict[str, str]:
    """Build the whole environment; of the worker's own, only PATH is handed down.

    The worker's Python comes first on it, so that ``python`` is one that exists everywhere.
    """
    return {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
        "HOME": str(base / "work"),
        "LANG": "C.UTF-8",
        "TMPDIR": str(base / "tmp"),
        **({"TRACESTATE": context.tracestate} if context.tracestate else {}),
        **{name: _text(value) for name, value in own.items()},
        "ORCH_OUTPUT_DIR": str(base / "out"),
        "ORCH_RUN_ID": str(context.run_id),
        "ORCH_STEP_ID": context.step_id,
        "ORCH_ATTEMPT": str(context.attempt),
        "TRACEPARENT": context.traceparent,
    }


def _place_inputs(files: Mapping[str, Json], work: Path, context: StepContext) -> None:
    for name, sha256 in files.items():
        path = PurePosixPath(name)
        if (
            not name
            or "\0" in name
            or path.is_absolute()
            or ".." in path.parts
            or str(path) != name
            or name == "."
        ):
            raise output_folder.OutputRefused(f"inputFiles: {name!r} is no plain relative path")
        if any(name.startswith(f"{other}/") for other in files):
            raise output_folder.OutputRefused(f"inputFiles: {name!r} lies below another file")
        target = work / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            context.fetch_artifact(Sha256(_text(sha256)), target)
        except ArtifactNotFound as error:
            raise output_folder.OutputRefused(
                f"inputFiles: {name!r}: there is no artifact {sha256}"
            ) from error


def _text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _object(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
