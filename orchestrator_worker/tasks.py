"""What a doorbell sets off: claim the step, run it, complete it, and go on with what that unlocked."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from uuid import UUID

import structlog
from celery import Celery, Task

from orchestrator_worker.attempt_trace import attempt_trace
from orchestrator_worker.celery_app import StepPool
from orchestrator_worker.executor import run_attempt
from orchestrator_worker.lease import Lease, LeaseKeeper
from orchestrator_worker.log_feed import LogFeed
from orchestrator_worker.run_ahead import run_ahead
from orchestrator_worker.settler import Request, Settler, Turn
from orchestrator_worker.shutdown import Shutdown
from shared.artifacts import ArtifactStore
from shared.config import Settings
from shared.domain.expressions import ExpressionError, evaluate_when
from shared.domain.models import (
    Claim,
    Failed,
    Outcome,
    RanAhead,
    RunId,
    Sha256,
    TenantId,
    Undecided,
    WorkerId,
)
from shared.domain.states import ErrorCode
from shared.domain.trace import TraceContext, parse_trace
from shared.errors import ArtifactNotFound, StoreUnavailable
from shared.messaging.celery_app import DECIDE_RUN, EXECUTE_STEP, pool_of
from shared.messaging.complaint import Complaint
from shared.messaging.dispatcher import GATHER_SECONDS, Dispatcher
from shared.messaging.doorbell import MESSAGE_VERSION
from shared.plugins import Catalog, Stop, StopReason
from shared.services import artifacts, work
from shared.store.db import Database
from shared.tracing import Tracer

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()

TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
MAX_STEPS = 10_000
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
LEAVE_SECONDS = 0.015
"""How long ready steps are left to this worker, if it is the only one and has just taken others of them."""

NO_POOLS: frozenset[str] = frozenset()


class ForgedMessage(ValueError):
    """A message that nobody of ours can have sent."""


class StepRunner:
    """Serves doorbells, from any number of threads."""

    def __init__(
        self,
        *,
        db: Database,
        settings: Settings,
        catalog: Catalog,
        store: ArtifactStore,
        dispatcher: Dispatcher,
        keeper: LeaseKeeper,
        shutdown: Shutdown,
        feed: LogFeed,
        worker_id: WorkerId,
        pool: StepPool,
        settler: Settler,
        tracer: Tracer | None = None,
    ) -> None:
        self._db = db
        self._settings = settings
        self._catalog = catalog
        self._store = store
        self._dispatcher = dispatcher
        self._keeper = keeper
        self._shutdown = shutdown
        self._feed = feed
        self._worker_id = worker_id
        self._tracer = tracer
        self._traces = dispatcher.traces
        self._pools = frozenset(settings.worker_pools)
        self._pool = pool
        self._settler = settler
        self.refused = Complaint("message_refused")
        """Messages that nobody of ours can have sent."""
        self.lost_results = Complaint("result_thrown_away")
        """Results of attempts whose lease was lost; another worker has the step, or will."""
        self.unreported = Complaint("result_not_reported")
        """Results that PostgreSQL did not take before the lease ended."""
        self.unserved = Complaint("doorbell_not_served")
        """Messages that an error ended; the sweeper finds what they left behind."""

        self.undecidable = Complaint("when_crashed")
        """Evaluations of ``when`` that ended in an error nobody foresaw."""

    def serve_step(
        self, body: Mapping[str, object], trace: TraceContext | None = None, *, pool: str | None = None
    ) -> None:
        """Run the step that a message names, if it is ready, and what it hands on. Raises nothing.

        ``trace`` is what the message says of the run's trace; the ledger knows better.
        ``pool`` is that of the queue which the message came from.
        """
        try:
            tenant, run_id, step_no = parse_step(body)
        except ForgedMessage as error:
            self.refused.note(error)
            return
        try:
            slice_end = self._slice_end()
            if self._shutdown.draining:
                return
            claimed = self._settler.claim(tenant, run_id, step_no)
            if claimed.claim is None and pool is not None:
                # Its step was cancelled, say: the tenant gets back what it was charged in advance.
                self._dispatcher.slot_freed(pool, tenant, used_ms=0, messages=1)
            self._note_trace(claimed.claim, trace)
            if self._follow(tenant, claimed, slice_end):
                self._decide_aside(tenant, run_id)
            self._work_through(claimed.claim, claimed.since, slice_end, messages=1)
        except Exception as error:  # noqa: BLE001  # It is logged there.
            self._unserved(error)

    def serve_decision(self, body: Mapping[str, object], trace: TraceContext | None = None) -> None:
        """Evaluate the ``when`` of steps of the run that a message names. Raises nothing."""
        try:
            tenant, run_id = parse_run(body)
        except ForgedMessage as error:
            self.refused.note(error)
            return
        try:
            slice_end = self._slice_end()
            if self._shutdown.draining:
                return
            claim, since = self._decide(tenant, run_id, self._handoff_pools(slice_end))
            self._note_trace(claim, trace)
            self._work_through(claim, since, slice_end, messages=0)
        except Exception as error:  # noqa: BLE001  # It is logged there.
            self._unserved(error)

    def _note_trace(self, claim: Claim | None, trace: TraceContext | None) -> None:
        """Remember what a message told of a run's trace, unless it is another trace than the ledger's."""
        if claim is not None and trace is not None and trace.trace_id == claim.trace_id:
            self._traces.remember(claim.run_id, trace)

    def _unserved(self, error: Exception) -> None:
        """Note an error that ended a message. The sweeper finds what it leaves behind."""
        self.unserved.note(error)
        if not isinstance(error, StoreUnavailable):
            LOGGER.error("doorbell_failed", exc_info=error)

    def _work_through(self, claim: Claim | None, since: float, slice_end: float, *, messages: int) -> None:
        """Run a claimed step and then each that it hands on. ``since``: just before the claim was granted.

        The tenant is charged with all of that time, on behalf of the pool whose slot it was.
        """
        if claim is None:
            return
        pool, tenant, taken = claim.pool, claim.tenant, since
        try:
            while claim is not None:
                claim, since, renewed = self._run_one(claim, since, slice_end)
                if renewed:
                    # Nobody else has waited for the slot, so nobody is to be charged for it so far.
                    taken, slice_end = since, self._slice_end()
        finally:
            used_ms = (time.monotonic() - taken) * 1000
            self._dispatcher.slot_freed(pool, tenant, used_ms=used_ms, messages=messages)

    def _run_one(self, claim: Claim, since: float, slice_end: float) -> tuple[Claim | None, float, bool]:
        """Run a step; gives the next, the time just before it was granted, and if its slice begins anew."""
        run = self._traces.of(claim.run_id, claim.trace_id)
        with (
            attempt_trace(claim, run, self._tracer) as trace,
            self._keeper.keep(claim, since=since) as lease,
        ):
            outcome = trace.outcome = self._attempt(claim, lease.stop, trace.here, self._feed)
            if lease.stop.reason is StopReason.LEASE_LOST:
                self._settler.forget(claim)
                self.lost_results.note(step=claim.step_id, run_id=str(claim.run_id))
                return None, 0.0, False
            ahead = run_ahead(
                claim, outcome, partial(self._attempt_ahead, run), partial(self._goes_on, slice_end)
            )
            told = self._complete(claim, outcome, ahead, lease, slice_end)
            if not told.accepted:
                self.lost_results.note(step=claim.step_id, run_id=str(claim.run_id))
        undecided = self._follow(claim.tenant, told, slice_end)
        if undecided and told.claim is None:
            return *self._decide(claim.tenant, claim.run_id, self._handoff_pools(slice_end)), False
        if undecided:
            self._decide_aside(claim.tenant, claim.run_id)
        return told.claim, told.since, told.claim is not None and told.turn is Turn.IS_OVER

    def _follow(self, tenant: TenantId, told: Request, slice_end: float) -> bool:
        """Do what a transition asks for, if it is this thread that has to; is there to decide?"""
        for claim in told.more:
            self._pool.run_reserved(partial(self._work_beside, claim, told.since, slice_end))
        progress = told.progress
        if progress is None:
            return False
        if progress.settled or progress.claims:
            self._dispatcher.events_written(tenant)
        alone = self._settler.share >= 1
        # What is left is first looked at by those who have just taken some of it.
        within = 0.0 if not progress.claims else LEAVE_SECONDS if alone else GATHER_SECONDS
        self._dispatcher.steps_ready(tenant, progress.ready_pools, within=within)
        if alone and progress.drained:
            self._dispatcher.leave(tenant, for_seconds=LEAVE_SECONDS)
        self._dispatcher.keys_changed(tenant, progress.keys)
        return progress.undecided

    def _work_beside(self, claim: Claim, since: float, slice_end: float) -> None:
        """Run a step that was taken for a reserved slot, and what it hands on. Raises nothing."""
        try:
            self._work_through(claim, since, slice_end, messages=0)
        except Exception as error:  # noqa: BLE001  # It is logged there.
            self._unserved(error)

    def _attempt_ahead(self, run: TraceContext, claim: Claim) -> Outcome:
        """Run a step that nobody has taken: there is no lease to lose, and no log for anybody to follow."""
        with attempt_trace(claim, run, self._tracer) as trace:
            trace.outcome = self._attempt(claim, Stop(), trace.here)
            return trace.outcome

    def _attempt(self, claim: Claim, stop: Stop, trace: TraceContext, feed: LogFeed | None = None) -> Outcome:
        try:
            return run_attempt(
                claim,
                catalog=self._catalog,
                store=self._store,
                settings=self._settings,
                stop=stop,
                owns=partial(self._owns, claim.tenant),
                feed=feed,
                trace=trace,
                tracer=self._tracer,
            )
        except Exception:
            LOGGER.exception("attempt_crashed", step=claim.step_id, run_id=str(claim.run_id))
            return Failed(
                error_code=ErrorCode.PLUGIN_ERROR,
                error_message="the worker failed to run the step; its log has more",
                retry_delay_ms=None,
            )

    def _owns(self, tenant: TenantId, sha256: Sha256) -> bool:
        try:
            artifacts.owned(self._db, tenant, sha256)
        except ArtifactNotFound:
            return False
        return True

    def _complete(
        self, claim: Claim, outcome: Outcome, ahead: Sequence[RanAhead], lease: Lease, slice_end: float
    ) -> Request:
        """Report what has happened, again and again while PostgreSQL is away and the lease lasts.

        ``accepted`` is false when the attempt was another's already, and also after a commit
        whose answer was lost: the repeated call finds another state. Both are well.
        """
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return self._settler.complete(claim, outcome, self._turn(slice_end), ahead)
            except StoreUnavailable as error:
                if self._keeper.remaining_seconds(lease) < pause:
                    self.unreported.note(error, step=claim.step_id, run_id=str(claim.run_id))
                    return Request(claim.step_no)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _decide(
        self, tenant: TenantId, run_id: RunId, handoff_pools: frozenset[str]
    ) -> tuple[Claim | None, float]:
        """Evaluate ``when`` after ``when`` until none is left, or until one of the steps is handed on."""
        while True:
            undecided = work.undecided(self._db, tenant, run_id)
            if not undecided:
                return None, 0.0
            unlock = [step.step_no for step in undecided if self._says_run(step)]
            skip = sorted({step.step_no for step in undecided}.difference(unlock))
            since = time.monotonic()
            change = work.decide(
                self._db,
                tenant,
                run_id,
                unlock=unlock,
                skip=skip,
                worker_id=self._worker_id,
                handoff_pools=handoff_pools,
                lease_ms=self._settings.lease_ms,
            )
            self._dispatcher.events_written(tenant)
            self._dispatcher.steps_ready(tenant, change.ready_pools)
            self._dispatcher.keys_changed(tenant, change.keys)
            if change.next is not None:
                if change.undecided:
                    self._decide_aside(tenant, run_id)
                return change.next, since
            if not change.undecided:
                return None, 0.0

    def _says_run(self, step: Undecided) -> bool:
        """Evaluate a ``when``; one that cannot be is unlocked, so that its attempt fails and says why."""
        try:
            return evaluate_when(step.when, inputs=step.inputs, ancestors=step.ancestors)
        except ExpressionError:
            return True
        except Exception as error:
            # Nobody foresaw it; it must not keep the run's other steps waiting.
            self.undecidable.note(error, step=step.step_id)
            LOGGER.exception("when_crashed", step=step.step_id)
            return True

    def _decide_aside(self, tenant: TenantId, run_id: RunId) -> None:
        """Evaluate what is left while a step is in hand already, which no failure here may cost."""
        try:
            self._decide(tenant, run_id, NO_POOLS)
        except Exception as error:  # noqa: BLE001  # It is logged there.
            self._unserved(error)

    def _slice_end(self) -> float:
        """Tell until when who gets a slot now may go on with other steps."""
        return time.monotonic() + self._settings.handoff_ms / 1000

    def _turn(self, slice_end: float) -> Turn:
        if self._shutdown.draining or not self._settings.handoff_ms:
            return Turn.ENDS
        return Turn.GOES_ON if time.monotonic() < slice_end else Turn.IS_OVER

    def _goes_on(self, slice_end: float) -> bool:
        return self._turn(slice_end) is Turn.GOES_ON

    def _handoff_pools(self, slice_end: float) -> frozenset[str]:
        """Tell which pools to take the next step from, within the same transaction."""
        return self._pools if self._goes_on(slice_end) else NO_POOLS


def register(app: Celery, runner: StepRunner) -> None:
    """Add the two tasks to a worker's app."""

    @app.task(name=EXECUTE_STEP, ignore_result=True, bind=True)
    def execute_step(task: Task[..., None], /, *_args: object, **body: object) -> None:
        runner.serve_step(body, _trace_of(task), pool=_pool_of(task))

    @app.task(name=DECIDE_RUN, ignore_result=True, bind=True)
    def decide_run(task: Task[..., None], /, *_args: object, **body: object) -> None:
        runner.serve_decision(body, _trace_of(task))


def _pool_of(task: Task[..., None]) -> str | None:
    """Tell which pool's queue the message that is being served came from."""
    queue = (task.request.delivery_info or {}).get("routing_key")
    return pool_of(queue) if isinstance(queue, str) else None


def _trace_of(task: Task[..., None]) -> TraceContext | None:
    """Read the headers of the message that is being served."""
    return parse_trace(task.request.get("traceparent"), task.request.get("tracestate"))


def parse_step(body: Mapping[str, object]) -> tuple[TenantId, RunId, int]:
    """Read the ids of a step from a message; raises ForgedMessage."""
    tenant, run_id = _parse_ids(body, {"v", "tenant", "run_id", "step_no"})
    step_no = body["step_no"]
    if type(step_no) is not int or not 0 <= step_no < MAX_STEPS:
        raise ForgedMessage("step_no is no number of a step")
    return tenant, run_id, step_no


def parse_run(body: Mapping[str, object]) -> tuple[TenantId, RunId]:
    """Read the ids of a run from a message; raises ForgedMessage."""
    return _parse_ids(body, {"v", "tenant", "run_id"})


def _parse_ids(body: Mapping[str, object], names: set[str]) -> tuple[TenantId, RunId]:
    version = body.get("v")
    if type(version) is not int or version < 1:
        raise ForgedMessage("no version")
    # A newer release adds fields, and keeps what these mean: during a rolling upgrade we get its messages.
    if not names.issubset(body) or (version <= MESSAGE_VERSION and set(body) != names):
        raise ForgedMessage("other fields than a doorbell has")
    tenant, run_id = body["tenant"], body["run_id"]
    if not isinstance(tenant, str) or TENANT.fullmatch(tenant) is None:
        raise ForgedMessage("tenant is no tenant's name")
    if not isinstance(run_id, str) or len(run_id) != 36:
        raise ForgedMessage("run_id is no UUID")
    try:
        return TenantId(tenant), RunId(UUID(run_id))
    except ValueError:
        raise ForgedMessage("run_id is no UUID") from None
