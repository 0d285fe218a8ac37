"""A tenant's ledger, driven by hand: each verb as a worker, the sweeper or the API would call it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg2

from shared.domain.hashing import hash_json
from shared.domain.models import (
    Change,
    Claim,
    DagSpec,
    Failed,
    JsonObject,
    Outcome,
    Run,
    RunId,
    Step,
    StepId,
    Succeeded,
    TenantId,
    WorkerId,
)
from shared.domain.states import ErrorCode
from shared.services import dags, dispatch, events, recovery, runs, steps, work
from shared.store.db import Database
from tests.support import verbs

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ACME = TenantId("acme")
WORKER = WorkerId("worker-1")
LONG_MS = 60_000
NO_POOLS: frozenset[str] = frozenset()


def succeeded(outputs: JsonObject | None = None) -> Succeeded:
    """Make the outcome of an attempt that worked."""
    given = outputs or {}
    return Succeeded(outputs=given, outputs_hash=hash_json(given), inputs_hash=hash_json({}))


def failed(*, retry_delay_ms: int | None = None) -> Failed:
    """Make the outcome of an attempt that failed; with a delay it is tried again."""
    return Failed(
        error_code=ErrorCode.EXIT_STATUS, error_message="exit status 1", retry_delay_ms=retry_delay_ms
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The verbs, for one tenant and one worker."""

    api: Database
    service: Database
    tenant: TenantId = ACME
    worker: WorkerId = WORKER

    def publish(self, spec: DagSpec) -> None:
        dags.publish(self.api, self.tenant, spec, signature=None, created_by="tester")

    def start(self, spec: DagSpec, *, inputs: JsonObject | None = None, run_token: str | None = None) -> Run:
        """Publish, if need be, and start."""
        self.publish(spec)
        run, _, _ = runs.start(
            self.api,
            self.tenant,
            dag_id=spec.dag_id,
            version=spec.version,
            inputs=inputs or {},
            run_token=run_token,
            trace_id=TRACE,
            created_by="tester",
        )
        return run

    def claim(self, run: Run, step_id: str, *, lease_ms: int = LONG_MS) -> Claim | None:
        return verbs.claim(
            self.service,
            self.tenant,
            run.run_id,
            self.step(run, step_id).step_no,
            worker_id=self.worker,
            lease_ms=lease_ms,
        )

    def claimed(self, run: Run, step_id: str, *, lease_ms: int = LONG_MS) -> Claim:
        """Claim a step that must be there to be claimed."""
        claim = self.claim(run, step_id, lease_ms=lease_ms)
        assert claim is not None, f"{step_id} is {self.step(run, step_id).status}"
        return claim

    def complete(self, claim: Claim, outcome: Outcome, *, handoff: frozenset[str] = NO_POOLS) -> Change:
        return verbs.complete(
            self.service,
            claim,
            outcome,
            worker_id=self.worker,
            handoff_pools=handoff,
            lease_ms=LONG_MS,
        )

    def run_step(self, run: Run, step_id: str, outcome: Outcome | None = None) -> Change:
        """Claim a step and complete it."""
        return self.complete(self.claimed(run, step_id), outcome or succeeded())

    def decide(
        self,
        run: Run,
        *,
        unlock: Sequence[str] = (),
        skip: Sequence[str] = (),
        handoff: frozenset[str] = NO_POOLS,
    ) -> Change:
        return work.decide(
            self.service,
            self.tenant,
            run.run_id,
            unlock=[self.step(run, s).step_no for s in unlock],
            skip=[self.step(run, s).step_no for s in skip],
            worker_id=self.worker,
            handoff_pools=handoff,
            lease_ms=LONG_MS,
        )

    def rescue(self) -> recovery.Rescued:
        return recovery.rescue(self.service, limit=100)

    def wake(self) -> frozenset[recovery.Backlog]:
        return recovery.wake(self.service, limit=100)

    def pick(self, pool: str = "default") -> list[recovery.Doorbell]:
        return dispatch.pick(self.api, pool, self.tenant)

    def run(self, run_id: RunId) -> Run:
        return runs.get(self.api, self.tenant, run_id)

    def step(self, run: Run, step_id: str) -> Step:
        return steps.get(self.api, self.tenant, run.run_id, StepId(step_id))[0]

    def statuses(self, run: Run) -> dict[str, str]:
        """Give ``{step id: status}``, with the error code behind a colon where there is one."""
        listed = steps.list_page(self.api, self.tenant, run.run_id, after_no=-1, limit=10_000)
        return {s.step_id: f"{s.status}:{s.error_code}" if s.error_code else str(s.status) for s in listed}

    def event_types(self, run: Run) -> list[str]:
        """Give each event as ``run.started`` or ``<step id>:<status>``."""
        told = []
        for event in events.list_all(self.api, self.tenant, run.run_id):
            line = json.loads(event.line)
            told.append(f"{line['stepId']}:{line['stepStatus']}" if "stepId" in line else line["type"])
        return told


def transactions(owner_url: str, run: Run) -> int:
    """Count the transactions that have written events of a run."""
    connection = psycopg2.connect(owner_url)
    try:
        with connection.cursor() as cur:
            cur.execute("SELECT count(DISTINCT xid) FROM orch.events WHERE run_id = %s", [str(run.run_id)])
            (count,) = cur.fetchone() or (0,)
            return int(count)
    finally:
        connection.close()
