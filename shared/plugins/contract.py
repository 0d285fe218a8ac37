"""The contract between a plugin and the worker that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from shared.domain.models import ArtifactRef, JsonObject, RunId, Sha256, StepId, TenantId
from shared.domain.states import ErrorCode
from shared.plugins.stop import Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSucceeded:
    """The step's work is done. ``outputs`` must be equal for equal work: no times, no random names."""

    outputs: JsonObject
    artifacts: tuple[ArtifactRef, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginFailed:
    """The work failed; ``message`` is for the reader of the run, ``retryable`` if another try may help."""

    error_code: ErrorCode
    message: str
    retryable: bool
    artifacts: tuple[ArtifactRef, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginStopped:
    """The plugin gave up because ``context.stop`` asked for it; the reason decides what is recorded."""


PluginResult = PluginSucceeded | PluginFailed | PluginStopped


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the installation grants to a step."""

    kill_grace_seconds: float
    """Time between the polite signal and the deadly one."""
    max_outputs_bytes: int
    max_log_bytes: int
    max_artifact_bytes: int
    http_allow: tuple[str, ...]
    """Networks and host names that may be reached although their addresses are not public."""


class LogSink(Protocol):
    """The step's log. Safe to use from several threads; what goes over the limit is dropped and counted."""

    def write(self, data: bytes) -> None:
        """Append bytes as they are."""

    def line(self, text: str) -> None:
        """Append one line of text."""


class StepContext(Protocol):
    """What a plugin may know and do while it runs one attempt."""

    @property
    def tenant(self) -> TenantId: ...
    @property
    def run_id(self) -> RunId: ...
    @property
    def step_id(self) -> StepId: ...
    @property
    def attempt(self) -> int: ...
    @property
    def traceparent(self) -> str:
        """The W3C trace context of this attempt: what the plugin has others do belongs to the run's trace."""

    @property
    def tracestate(self) -> str:
        """What goes with ``traceparent`` to whoever gets that; often empty."""

    @property
    def stop(self) -> Stop: ...
    @property
    def log(self) -> LogSink: ...
    @property
    def limits(self) -> Limits: ...

    def work_dir(self) -> Path:
        """Return the attempt's private folder, made at the first call and removed after the attempt."""

    def put_artifact(self, name: str, content: Path | bytes, content_type: str | None = None) -> ArtifactRef:
        """Store bytes or a file under a relative name; hand the result on in ``artifacts``.

        Raises ValueError for a name that cannot be one, ArtifactTooLarge for
        content over the limit, StoreUnavailable when the store cannot take it.
        """

    def fetch_artifact(self, sha256: Sha256, to: Path) -> None:
        """Copy an artifact of this tenant to a new read-only file; raises ArtifactNotFound."""


class Plugin(Protocol):
    """A class that turns a step's ``with`` into ``outputs``. One instance serves all threads of a process.

    It may have ``pure: ClassVar[bool] = True``: it has no effect but its outputs, the same ones for the
    same ``with``, and is done at once. Then its steps may be run before their starts are recorded.
    """

    name: ClassVar[str]
    """What ``uses`` names: ``^[a-z0-9][a-z0-9._-]*$``."""
    version: ClassVar[str]
    """SemVer; ``uses: name@version`` asks for exactly this one."""
    schema: ClassVar[JsonObject]
    """JSON Schema (2020-12) of ``with``, checked at publish around expressions and again after rendering."""
    needs_network: ClassVar[bool]
    retryable: ClassVar[str]
    """Which of its failures are worth a retry, in a sentence for the reader of ``GET /plugins``."""

    def run(self, params: JsonObject, context: StepContext) -> PluginResult:
        """Do the work of one attempt.

        A failure of the work is a returned value. Long work must heed ``context.stop``: the
        worker cannot end a thread from outside. Whatever is raised becomes ``PLUGIN_ERROR``.
        """
