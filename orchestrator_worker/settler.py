"""What the threads of a process have to tell of runs goes to PostgreSQL together.

The steps of a run take turns at its row, and each transaction has its price. So few of a
process are under way at a time: whoever comes meanwhile waits for the end of one of them, and
then all that have come are settled in one transaction, by one of them. The more there is to
do, the more goes together. Only steps that were taken a moment ago, and so may be over in
another, are waited for: those that were unlocked together and take no time come back together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import Final, Protocol

from shared.domain.models import Claim, Ended, Outcome, Progress, RanAhead, RunId, TenantId, WorkerId
from shared.errors import Unavailable
from shared.services import work
from shared.services.work import Handoff, Report
from shared.store.db import Database

LANES: Final = 2
"""Transactions of a process at a time, so that one is made ready while another is made durable."""
PATIENCE_SECONDS: Final = 0.025
"""One that takes longer than this, since it waits for a run's row, is passed by."""
BRIEF_SECONDS: Final = 0.005
"""A step that was taken longer ago than this is not waited for."""
NEXT_SECONDS: Final = 0.0015
"""Nor is any after so long without one that came."""
MAX_RUNS: Final = 32
"""Runs that are settled together: the first of them waits for the last."""


class Turn(Enum):
    """Whether whoever reports an ending has time for another step."""

    GOES_ON = "goes on"
    IS_OVER = "is over"
    """Unless nobody else waits for the slot."""
    ENDS = "ends"


class Slots(Protocol):
    """Where more steps can run beside those that messages have brought."""

    def reserve(self) -> int:
        """Keep the slots that can be had from others; tells how many there are."""
        ...

    def give_back(self, number: int) -> None:
        """Let go of so many reserved slots."""
        ...

    def leaves(self, thread: int) -> None:
        """Reckon with the slot of this thread, which has nothing more to do there."""
        ...


@dataclass(slots=True, eq=False)
class Request:
    """One thing to be told of a run: a step to claim, or an attempt that has ended."""

    step_no: int
    ended: Ended | None = None
    turn: Turn = Turn.ENDS
    accepted: bool = False
    claim: Claim | None = None
    """The step that whoever asked has now."""
    since: float = 0.0
    """Monotonic time just before it was granted."""
    progress: Progress | None = None
    """For one of those that were settled together: what is to be done about all of them."""
    more: tuple[Claim, ...] = ()
    """For the same one: the steps that were taken for reserved slots."""
    error: Exception | None = None
    alone: bool = False
    """Whether its run is settled in a transaction of its own, which may wait for the run's row."""
    thread: int = field(default_factory=threading.get_ident)
    woken: threading.Lock = field(default_factory=threading.Lock)
    duty: _Batch | None = None
    """What it falls to its thread to settle."""


@dataclass(slots=True, eq=False)
class _Batch:
    """Runs of a tenant that are settled together."""

    tenant: TenantId
    runs: dict[RunId, list[Request]]


class Settler:
    """Takes requests of any number of threads, and settles together what comes together."""

    def __init__(
        self,
        db: Database,
        slots: Slots,
        *,
        worker_id: WorkerId,
        pools: frozenset[str],
        lease_ms: int,
        pure: frozenset[str] = frozenset(),
    ) -> None:
        self._db = db
        self._slots = slots
        self._worker_id = worker_id
        self._pools = pools
        self._pure = pure
        self._lease_ms = lease_ms
        self.share = 0.0
        """The share (0 to 1) of this process in the slots of the fleet."""
        self._lock = threading.Lock()
        self._come = threading.Condition(self._lock)
        self._lanes = 0
        """How many transactions are under way."""
        self._busy: set[RunId] = set()
        """The runs that they settle."""
        self._waiting: dict[tuple[TenantId, RunId], list[Request]] = {}
        """Who has come since."""
        self._in_hand: dict[RunId, dict[int, float]] = {}
        """The steps that this process has taken and has not reported, with the time when it heard of it."""

    def claim(self, tenant: TenantId, run_id: RunId, step_no: int) -> Request:
        """Claim a queued step; raises StoreUnavailable."""
        return self._ask(tenant, run_id, Request(step_no))

    def complete(self, claim: Claim, outcome: Outcome, turn: Turn, ahead: Sequence[RanAhead] = ()) -> Request:
        """Report an end and what was run ahead; raises StoreUnavailable, and then may be repeated."""
        ended = Ended(step_no=claim.step_no, attempt=claim.attempt, outcome=outcome, ahead=ahead)
        # Artifacts are rows that runs share: who comes with several of them must hold no other run.
        request = Request(claim.step_no, ended=ended, turn=turn, alone=bool(outcome.artifacts))
        return self._ask(claim.tenant, claim.run_id, request)

    def forget(self, claim: Claim) -> None:
        """Reckon no longer with an attempt whose end nobody will report."""
        with self._lock:
            self._leave(claim.run_id, claim.step_no)

    def _leave(self, run_id: RunId, step_no: int) -> None:
        in_hand = self._in_hand.get(run_id, {})
        if in_hand.pop(step_no, None) is not None and not in_hand:
            del self._in_hand[run_id]

    def _ask(self, tenant: TenantId, run_id: RunId, request: Request) -> Request:
        with self._lock:
            if request.ended is not None:
                self._leave(run_id, request.step_no)
            if self._lanes < LANES and run_id not in self._busy:
                request.duty = self._begin(_Batch(tenant, {run_id: [request]}))
            else:
                self._waiting.setdefault((tenant, run_id), []).append(request)
                request.woken.acquire()
                self._come.notify_all()
        if request.duty is None:
            self._wait(tenant, run_id, request)
        while request.duty is not None:
            batch, request.duty = request.duty, None
            left: Mapping[RunId, list[Request]] = {}
            try:
                self._await_brief(batch)
                left = self._serve(batch)
            finally:
                self._end(batch, left, request)
        if request.error is not None:
            raise request.error
        return request

    def _wait(self, tenant: TenantId, run_id: RunId, request: Request) -> None:
        """Wait until it has been settled by another thread, or falls to this one to settle."""
        while not request.woken.acquire(timeout=PATIENCE_SECONDS):
            with self._lock:
                if run_id not in self._busy and request in self._waiting.get((tenant, run_id), ()):
                    request.duty = self._begin(self._take(tenant, [run_id]))
                    return

    def _begin(self, batch: _Batch) -> _Batch:
        """Take note that somebody settles these runs; the caller holds the lock."""
        self._lanes += 1
        self._busy |= batch.runs.keys()
        return batch

    def _take(self, tenant: TenantId, run_ids: Iterable[RunId]) -> _Batch:
        return _Batch(tenant, {run_id: self._waiting.pop((tenant, run_id)) for run_id in run_ids})

    def _next(self) -> _Batch | None:
        """Take the run that waits for longest, and others of its tenant; the caller holds the lock."""
        free = [key for key in self._waiting if key[1] not in self._busy]
        if not free:
            return None
        tenant, first = free[0]
        if self._is_alone(tenant, first):
            return self._take(tenant, [first])
        others = (run_id for of, run_id in free if of == tenant and not self._is_alone(tenant, run_id))
        return self._take(tenant, islice(others, MAX_RUNS))

    def _is_alone(self, tenant: TenantId, run_id: RunId) -> bool:
        return any(request.alone for request in self._waiting[tenant, run_id])

    def _end(self, batch: _Batch, left: Mapping[RunId, list[Request]], by: Request) -> None:
        """Wake those that were served, and have others settle what is left and what has come since."""
        with self._lock:
            self._lanes -= 1
            self._busy -= batch.runs.keys()
            for run_id, requests in left.items():
                for request in requests:
                    request.alone = True
                key = (batch.tenant, run_id)
                self._waiting[key] = requests + self._waiting.get(key, [])
                if by in requests:
                    by.duty = self._begin(self._take(batch.tenant, [run_id]))
            while self._lanes < LANES and (following := self._next()) is not None:
                leader = next(iter(following.runs.values()))[0]
                leader.duty = self._begin(following)
                leader.woken.release()
        for run_id, requests in batch.runs.items():
            if run_id not in left:
                for request in requests:
                    if request is not by:
                        request.woken.release()

    def _await_brief(self, batch: _Batch) -> None:
        """Wait for steps of a run that may be over in a moment; where there are several runs, for none."""
        if len(batch.runs) > 1:
            return
        ((run_id, requests),) = batch.runs.items()
        with self._lock:
            while self._is_brief(run_id) and self._come.wait(NEXT_SECONDS):
                requests.extend(self._waiting.pop((batch.tenant, run_id), ()))

    def _is_brief(self, run_id: RunId) -> bool:
        """Tell whether a step of the run was taken so recently that it may be over in a moment."""
        since = time.monotonic() - BRIEF_SECONDS
        return any(taken > since for taken in self._in_hand.get(run_id, {}).values())

    def _serve(self, batch: _Batch) -> Mapping[RunId, list[Request]]:
        """Settle the runs; gives those that must be settled by themselves."""
        requests = [request for of_run in batch.runs.values() for request in of_run]
        try:
            return self._settle_together(batch)
        except Unavailable as error:
            for request in requests:
                request.error = error
        except Exception as error:  # noqa: BLE001  # Whoever asked gets it.
            if len(requests) == 1:
                requests[0].error = error
            elif len(batch.runs) > 1:
                return batch.runs
            else:
                # One of them is to blame: it must not cost the others their results.
                for run_id in batch.runs:
                    for request in requests:
                        self._serve(_Batch(batch.tenant, {run_id: [request]}))
        return {}

    def _settle_together(self, batch: _Batch) -> Mapping[RunId, list[Request]]:
        goes_on = any(r.turn is not Turn.ENDS for requests in batch.runs.values() for r in requests)
        free = self._slots.reserve() if goes_on else 0
        used = 0
        try:
            reports = self._reports(batch, free)
            since = time.monotonic()
            settled = work.settle(self._db, batch.tenant, reports)
            for report in reports:
                progress = settled.get(report.run_id)
                if progress is not None:
                    used += self._tell(batch.runs[report.run_id], progress, since)
        finally:
            self._slots.give_back(free - used)
        return {run_id: requests for run_id, requests in batch.runs.items() if run_id not in settled}

    def _reports(self, batch: _Batch, free: int) -> list[Report]:
        """Put into words what is told of each run; the free slots are divided among them.

        In the order in which leases are renewed: so neither waits for the other in a circle.
        """
        reports: list[Report] = []
        for run_id, requests in sorted(batch.runs.items()):
            sure = sum(request.turn is Turn.GOES_ON for request in requests)
            late = sum(request.turn is Turn.IS_OVER for request in requests)
            of_it = free // (len(batch.runs) - len(reports))
            free -= of_it
            handoff = Handoff(
                worker_id=self._worker_id,
                lease_ms=self._lease_ms,
                pools=self._pools,
                pure=self._pure,
                sure=sure,
                late=late,
                free=of_it,
                share=self.share,
            )
            claims = [request.step_no for request in requests if request.ended is None]
            ended = [request.ended for request in requests if request.ended is not None]
            reports.append(Report(run_id=run_id, claims=claims, ended=ended, handoff=handoff))
        return reports

    def _tell(self, requests: Sequence[Request], progress: Progress, since: float) -> int:
        """Tell those that were settled what came of it; gives how many reserved slots are needed."""
        taken = {claim.step_no: claim for claim in progress.claims}
        for request in requests:
            request.since = since
            if request.ended is None:
                request.claim = taken.pop(request.step_no, None)
            else:
                request.accepted = (request.step_no, request.ended.attempt) in progress.settled
        heirs = [request for request in requests if request.turn is Turn.GOES_ON]
        if progress.late:
            heirs += [request for request in requests if request.turn is Turn.IS_OVER]
        more = list(taken.values())
        for heir in heirs[: len(more)]:
            heir.claim = more.pop(0)
        if progress.claims:
            with self._lock:
                in_hand = self._in_hand.setdefault(progress.claims[0].run_id, {})
                in_hand.update((claim.step_no, time.monotonic()) for claim in progress.claims)
        for number, request in enumerate(requests):
            # The first one has the decisions to make.
            if request.claim is None and not (number == 0 and progress.undecided):
                self._slots.leaves(request.thread)
        requests[0].progress = progress
        requests[0].more = tuple(more)
        return len(more)
