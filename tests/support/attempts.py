"""Attempts without a ledger: a claim made by hand, a store and a work folder of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from orchestrator_worker.executor import run_attempt
from orchestrator_worker.plugins.command import CommandPlugin
from orchestrator_worker.plugins.http import HttpPlugin
from orchestrator_worker.plugins.noop import NoopPlugin
from orchestrator_worker.plugins.sleep import SleepPlugin
from shared.artifacts import FolderStore
from shared.config import Settings
from shared.domain.models import (
    Ancestor,
    Claim,
    DagId,
    Failed,
    Json,
    JsonObject,
    Outcome,
    RetryPolicy,
    RunId,
    Sha256,
    StepId,
    Succeeded,
    TenantId,
)
from shared.domain.trace import TraceContext
from shared.plugins import Catalog, Plugin, Stop

RUN_ID = RunId(UUID("0191f000-0000-7000-8000-000000000001"))
ONE_TRY = RetryPolicy()
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def claim(
    uses: str,
    params: JsonObject,
    *,
    when: str | None = None,
    retry: RetryPolicy = ONE_TRY,
    tries: int = 1,
    timeout_ms: int = 60_000,
    inputs: JsonObject | None = None,
    ancestors: Mapping[StepId, Ancestor] | None = None,
) -> Claim:
    """Make the claim of a step ``work`` of the tenant ``acme``."""
    return Claim(
        tenant=TenantId("acme"),
        run_id=RUN_ID,
        step_no=0,
        step_id=StepId("work"),
        attempt=tries,
        tries=tries,
        dag_id=DagId("dag"),
        dag_version="1.0.0",
        trace_id=TRACE_ID,
        uses=uses,
        params=params,
        when=when,
        retry=retry,
        timeout_ms=timeout_ms,
        pool="default",
        inputs=inputs or {},
        ancestors=ancestors or {},
    )


@dataclass(kw_only=True)
class Bench:
    """Where attempts are run. ``owned`` are the artifacts that the tenant may read."""

    folder: Path
    plugins: Iterable[Plugin] = ()
    settings: Settings = field(init=False)
    store: FolderStore = field(init=False)
    catalog: Catalog = field(init=False)
    owned: set[Sha256] = field(default_factory=set)
    trace: TraceContext = TraceContext(trace_id=TRACE_ID, span_id="00f067aa0ba902b7")

    def __post_init__(self) -> None:
        self.settings = Settings(work_dir=self.folder / "work", kill_grace_ms=500)
        self.store = FolderStore(self.folder / "artifacts")
        self.catalog = Catalog([NoopPlugin(), SleepPlugin(), CommandPlugin(), HttpPlugin(), *self.plugins])

    def run(self, step: Claim, stop: Stop | None = None) -> Outcome:
        return run_attempt(
            step,
            catalog=self.catalog,
            store=self.store,
            settings=self.settings,
            stop=stop or Stop(),
            owns=self.owned.__contains__,
            trace=self.trace,
        )

    def succeed(self, uses: str, params: JsonObject) -> Succeeded:
        outcome = self.run(claim(uses, params))
        assert isinstance(outcome, Succeeded), outcome
        return outcome

    def fail(self, uses: str, params: JsonObject, *, timeout_ms: int = 60_000) -> Failed:
        outcome = self.run(claim(uses, params, timeout_ms=timeout_ms))
        assert isinstance(outcome, Failed), outcome
        return outcome

    def begin(self, step: Claim) -> Running:
        """Run an attempt in a thread of its own."""
        return Running(self, step)

    def read(self, sha256: Json) -> bytes:
        assert isinstance(sha256, str)
        with self.store.open(Sha256(sha256)) as file:
            return file.read()

    def work_folders(self) -> list[Path]:
        """List what attempts have left behind."""
        root = self.settings.work_dir
        return sorted(root.iterdir()) if root.exists() else []


class Running:
    """An attempt under way."""

    def __init__(self, bench: Bench, step: Claim) -> None:
        self.stop = Stop()
        self._outcomes: list[Outcome] = []
        self._thread = threading.Thread(target=lambda: self._outcomes.append(bench.run(step, self.stop)))
        self._thread.start()

    def outcome(self, *, within: float = 10.0) -> Outcome:
        self._thread.join(within)
        assert not self._thread.is_alive(), f"still running after {within} s"
        return self._outcomes[0]
