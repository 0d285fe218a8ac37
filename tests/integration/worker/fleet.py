"""Workers and sweepers as processes of their own, and the DAGs that the tests have them run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis
from celery import Celery

from shared.config import Need, Settings, load_settings
from shared.domain.hashing import canonical, hash_json
from shared.domain.models import (
    Attempt,
    DagId,
    DagSpec,
    JsonObject,
    RetryPolicy,
    Run,
    RunId,
    Step,
    StepId,
    StepSpec,
    TenantId,
)
from shared.domain.normal_form import definition_of
from shared.domain.states import RunStatus, StepStatus
from shared.domain.versions import precedence
from shared.messaging.celery_app import make_celery
from shared.messaging.dispatcher import Dispatcher
from shared.services import dags, runs, steps
from shared.store.db import Database
from tests.support.eventually import eventually

ROOT = Path(__file__).parents[3]
ACME = TenantId("acme")
TIMINGS = {
    "ORCH_LEASE_MS": "2000",
    "ORCH_KILL_GRACE_MS": "300",
    "ORCH_GRACE_MS": "10000",
    "ORCH_SWEEP_INTERVAL_MS": "100",
    "ORCH_RESEND_AFTER_MS": "500",
    "ORCH_WORKER_CONCURRENCY": "4",
}


@dataclass(slots=True, kw_only=True)
class Process:
    """One of our processes, with what it has logged."""

    popen: subprocess.Popen[bytes]
    log: Path

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self, *, within: float) -> int:
        """Wait for its end; give its exit status."""
        return self.popen.wait(within)

    def events(self, name: str) -> list[JsonObject]:
        """Give the lines of its log that tell of this event."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None


@dataclass(slots=True, kw_only=True)
class Fleet:
    """The processes of one test, and the test's own connections to what they share."""

    environ: dict[str, str]
    folder: Path
    settings: Settings
    app: Celery
    db: Database
    service_db: Database
    dispatcher: Dispatcher
    processes: list[Process] = field(default_factory=list)
    code: Path = ROOT
    """The release that processes are started from."""

    def worker(self, **environ: str) -> Process:
        """Start a worker and wait until it takes messages."""
        process = self.begin_worker(**environ)
        eventually(lambda: process.events("worker_ready") or not process.alive, within=20)
        return process

    def begin_worker(self, **environ: str) -> Process:
        """Start a worker and do not wait for it."""
        return self._start("orchestrator_worker", environ)

    def sweeper(self, **environ: str) -> Process:
        """Start a sweeper."""
        process = self._start("orchestrator_worker.sweeper", environ)
        eventually(lambda: process.events("sweeper_ready") or not process.alive, within=20)
        return process

    def redis(self) -> redis.Redis:
        """Open a client of the tests' own."""
        return redis.Redis.from_url(self.environ["ORCH_REDIS_URL"])

    def publish(self, spec: DagSpec, *, tenant: TenantId = ACME) -> DagSpec:
        """Publish for a tenant."""
        dags.publish(self.db, tenant, spec, signature=None, created_by="test")
        return spec

    def start(
        self,
        spec: DagSpec,
        *,
        tenant: TenantId = ACME,
        ring: bool = True,
        inputs: JsonObject | None = None,
    ) -> RunId:
        """Start a run as the API does; without ``ring`` as if the API had died after its commit."""
        run, _, change = runs.start(
            self.db,
            tenant,
            dag_id=spec.dag_id,
            version=None,
            inputs=inputs or {},
            run_token=None,
            trace_id="0" * 32,
            created_by="test",
        )
        if ring:
            self.dispatcher.steps_ready(tenant, change.ready_pools)
            self.dispatcher.keys_changed(tenant, change.keys)
            if change.undecided:
                self.dispatcher.undecided(tenant, run.run_id)
        return run.run_id

    def run(self, run_id: RunId) -> Run:
        return runs.get(self.db, ACME, run_id)

    def steps(self, run_id: RunId) -> list[Step]:
        return steps.list_page(self.db, ACME, run_id, after_no=-1, limit=10_000)

    def attempts(self, run_id: RunId, step_id: str = "s0") -> list[Attempt]:
        return steps.get(self.db, ACME, run_id, StepId(step_id))[1]

    def ended(self, run_id: RunId, *, within: float = 15) -> Run:
        """Wait for the run's end."""
        eventually(lambda: self.run(run_id).status.is_terminal, within=within)
        return self.run(run_id)

    def completed(self, run_id: RunId, *, within: float = 15) -> Run:
        """Wait for the run's end, which must be a good one."""
        run = self.ended(run_id, within=within)
        assert run.status is RunStatus.COMPLETED, self.steps(run_id)
        return run

    def until_running(self, run_id: RunId, step_no: int = 0, *, within: float = 10) -> None:
        """Wait until the step runs."""
        eventually(lambda: self.steps(run_id)[step_no].status is StepStatus.RUNNING, within=within)

    def _start(self, module: str, environ: dict[str, str]) -> Process:
        log = self.folder / f"{module}.{len(self.processes)}.log"
        with log.open("wb") as file:
            popen = subprocess.Popen(
                [sys.executable, "-m", module],
                env={**self.environ, **environ},
                cwd=self.code,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        process = Process(popen=popen, log=log)
        self.processes.append(process)
        return process


@contextmanager
def new_fleet(folder: Path, *, database_url: str, redis_url: str) -> Iterator[Fleet]:
    """Lend a fleet without processes; end those that the test starts."""
    for name in ("artifacts", "work"):
        (folder / name).mkdir()
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ORCH_")},
        **TIMINGS,
        "ORCH_DATABASE_URL": database_url,
        "ORCH_REDIS_URL": redis_url,
        "ORCH_ARTIFACTS_URL": (folder / "artifacts").as_uri(),
        "ORCH_WORK_DIR": str(folder / "work"),
        "ORCH_POOLS": "default,other",
    }
    settings = load_settings(environ, need=Need.DATABASE | Need.REDIS)
    db = Database(database_url, role="orch_api", size=4, application_name="test-api")
    service_db = Database(database_url, role="orch_service", size=2, application_name="test-service")
    app = make_celery(settings)
    fleet = Fleet(
        environ=environ,
        folder=folder,
        settings=settings,
        app=app,
        db=db,
        service_db=service_db,
        dispatcher=Dispatcher(db, app),
    )
    try:
        yield fleet
    finally:
        for process in fleet.processes:
            if process.alive:
                process.popen.kill()
                process.popen.wait()
        fleet.dispatcher.close()
        app.close()
        db.close()
        service_db.close()


def step(name: str, uses: str = "noop", **with_: object) -> StepSpec:
    """Describe a step; what is not given has the default."""
    return StepSpec(id=StepId(name), uses=uses, params=with_)  # type: ignore[arg-type]


def dag(
    name: str,
    made_of: Sequence[StepSpec],
    edges: Sequence[tuple[int, int]] = (),
    metadata: JsonObject | None = None,
) -> DagSpec:
    """Describe a DAG of steps in topological order."""
    definition = definition_of(DagId(name), "1.0.0", tuple(made_of), tuple(sorted(edges)), metadata or {})
    return DagSpec(
        dag_id=DagId(name),
        version="1.0.0",
        steps=tuple(made_of),
        edges=tuple(sorted(edges)),
        metadata=metadata or {},
        refs=tuple(_named(one, made_of) for one in made_of),
        reads_inputs=tuple("inputs" in (one.when or "") for one in made_of),
        definition=definition,
        canonical=canonical(definition).decode(),
        spec_hash=hash_json(definition),
        precedence=precedence("1.0.0"),
    )


def _named(one: StepSpec, made_of: Sequence[StepSpec]) -> tuple[int, ...]:
    """Tell which steps a step reads, by their names in its expressions."""
    text = f"{one.when} {one.params}"
    if "steps." not in text:
        return ()
    return tuple(i for i, other in enumerate(made_of) if f"steps.{other.id}." in text)


def chain(length: int, name: str = "chain", uses: str = "noop", **with_: object) -> DagSpec:
    """Describe steps that run one after another."""
    edges = [(i, i + 1) for i in range(length - 1)]
    return dag(name, [step(f"s{i}", uses, **with_) for i in range(length)], edges)


def wide(width: int, uses: str = "noop", name: str = "wide", **with_: object) -> DagSpec:
    """Describe steps that can all run at once."""
    return dag(name, [step(f"s{i}", uses, **with_) for i in range(width)])


def sleeper(milliseconds: int, name: str = "sleeper") -> DagSpec:
    """Describe one step that sleeps."""
    return dag(name, [step("s0", "sleep", ms=milliseconds)])


def flaky(marker: Path, name: str = "flaky") -> DagSpec:
    """Describe one step that fails once and may be tried again at once."""
    script = f"test -e {marker} || {{ touch {marker}; exit 1; }}"
    spec = StepSpec(
        id=StepId("s0"),
        uses="command",
        params={"argv": ["sh", "-c", script]},
        retry=RetryPolicy(max_attempts=3, initial_delay_ms=50),
    )
    return dag(name, [spec])
