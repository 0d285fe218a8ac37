"""What the threads of a process have to tell of a run goes to PostgreSQL together.

The steps of a run take turns at its row. A thread that finds another of the process on its
way there does not queue up at the row itself: all that have come by the time of its turn are
settled in one transaction, by one of them. Nobody waits for more to come; the more there is
to do, the more goes together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from shared.domain.models import Claim, Ended, Outcome, Progress, RunId, TenantId, WorkerId
from shared.errors import Unavailable
from shared.services import work
from shared.services.work import Handoff
from shared.store.db import Database


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
    woken: threading.Lock = field(default_factory=threading.Lock)
    batch: list[Request] | None = None


class Settler:
    """Takes requests of any number of threads, and settles those of a run together."""

    def __init__(
        self, db: Database, slots: Slots, *, worker_id: WorkerId, pools: frozenset[str], lease_ms: int
    ) -> None:
        self._db = db
        self._slots = slots
        self._worker_id = worker_id
        self._pools = pools
        self._lease_ms = lease_ms
        self.share = 0.0
        """The share (0 to 1) of this process in the slots of the fleet."""
        self._lock = threading.Lock()
        self._lines: dict[RunId, list[Request]] = {}
        """Of each run that somebody is settling: who has come since."""

    def claim(self, tenant: TenantId, run_id: RunId, step_no: int) -> Request:
        """Claim a queued step; raises StoreUnavailable."""
        return self._ask(tenant, run_id, Request(step_no))

    def complete(self, claim: Claim, outcome: Outcome, turn: Turn) -> Request:
        """Report the end of an attempt; raises StoreUnavailable, and then may be repeated."""
        ended = Ended(step_no=claim.step_no, attempt=claim.attempt, outcome=outcome)
        request = Request(claim.step_no, ended=ended, turn=turn)
        return self._ask(claim.tenant, claim.run_id, request)

    def _ask(self, tenant: TenantId, run_id: RunId, request: Request) -> Request:
        with self._lock:
            line = self._lines.get(run_id)
            if line is None:
                self._lines[run_id] = []
                request.batch = [request]
            else:
                line.append(request)
                request.woken.acquire()
        if request.batch is None:
            # Until it is settled by another, or its turn has come to settle.
            request.woken.acquire()
        if request.batch is not None:
            try:
                self._serve(tenant, run_id, request.batch)
            finally:
                self._pass_on(run_id, request.batch[1:])
        if request.error is not None:
            raise request.error
        return request

    def _pass_on(self, run_id: RunId, served: Sequence[Request]) -> None:
        """Wake those that were served, and the first of those who have come since: it settles them all."""
        with self._lock:
            line = self._lines[run_id]
            if line:
                self._lines[run_id] = []
                line[0].batch = line
                line[0].woken.release()
            else:
                del self._lines[run_id]
        for request in served:
            request.woken.release()

    def _serve(self, tenant: TenantId, run_id: RunId, batch: list[Request]) -> None:
        try:
            self._settle_together(tenant, run_id, batch)
        except Unavailable as error:
            for request in batch:
                request.error = error
        except Exception as error:  # noqa: BLE001  # Whoever asked gets it.
            if len(batch) == 1:
                batch[0].error = error
            else:
                # One of them is to blame: it must not cost the others their results.
                for request in batch:
                    self._serve(tenant, run_id, [request])

    def _settle_together(self, tenant: TenantId, run_id: RunId, batch: Sequence[Request]) -> None:
        claims = [request.step_no for request in batch if request.ended is None]
        ended = [request.ended for request in batch if request.ended is not None]
        heirs = [request for request in batch if request.turn is Turn.GOES_ON]
        sure, late = len(heirs), 0
        if not heirs:
            heirs = [request for request in batch if request.turn is Turn.IS_OVER]
            late = len(heirs)
        free = self._slots.reserve() if sure else 0
        handoff = Handoff(
            worker_id=self._worker_id,
            lease_ms=self._lease_ms,
            pools=self._pools if heirs else frozenset(),
            sure=sure,
            late=late,
            free=free,
            share=self.share,
        )
        more: list[Claim] = []
        try:
            since = time.monotonic()
            progress = work.settle(self._db, tenant, run_id, claims=claims, ended=ended, handoff=handoff)
            taken = {claim.step_no: claim for claim in progress.claims}
            for request in batch:
                request.since = since
                if request.ended is None:
                    request.claim = taken.pop(request.step_no, None)
                else:
                    request.accepted = (request.step_no, request.ended.attempt) in progress.settled
            more = list(taken.values())
            for request in heirs[: len(more)]:
                request.claim = more.pop(0)
        finally:
            self._slots.give_back(free - len(more))
        batch[0].progress = progress
        batch[0].more = tuple(more)
