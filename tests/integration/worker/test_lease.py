"""Leases are renewed while they can be, and attempts are stopped in time when they cannot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from orchestrator_worker.lease import LeaseKeeper
from shared.domain.models import Claim, DagId, RetryPolicy, RunId, StepId, TenantId
from shared.errors import StoreUnavailable
from shared.plugins import StopReason
from shared.services.work import Held, Renewal
from tests.support.eventually import eventually

LEASE_MS = 600
KILL_GRACE_MS = 100


def claim(step_no: int = 0) -> Claim:
    return Claim(
        tenant=TenantId("acme"),
        run_id=RunId(UUID(int=1)),
        step_no=step_no,
        step_id=StepId(f"s{step_no}"),
        attempt=1,
        tries=1,
        dag_id=DagId("d"),
        dag_version="1.0.0",
        trace_id="0" * 32,
        uses="noop",
        params={},
        when=None,
        retry=RetryPolicy(),
        timeout_ms=60_000,
        pool="default",
        inputs={},
        ancestors={},
    )


def granted(held: Sequence[Held]) -> list[Renewal]:
    return [Renewal(held=one, valid=True, cancel_requested=False) for one in held]


@contextmanager
def keeper(renew: Callable[[Sequence[Held]], Sequence[Renewal]]) -> Iterator[LeaseKeeper]:
    made = LeaseKeeper(renew, lambda: None, lease_ms=LEASE_MS, kill_grace_ms=KILL_GRACE_MS)
    made.start()
    yield made
    made.close()


def test_a_lease_that_is_renewed_lasts() -> None:
    renewed: list[int] = []

    def renew(held: Sequence[Held]) -> list[Renewal]:
        renewed.append(len(held))
        return granted(held)

    with keeper(renew) as leases, leases.keep(claim(), since=time.monotonic()) as lease:
        eventually(lambda: len(renewed) >= 5)
        assert lease.stop.reason is None
        assert leases.remaining_seconds(lease) > 0


def test_all_leases_are_renewed_by_one_call() -> None:
    sizes: list[int] = []

    def renew(held: Sequence[Held]) -> list[Renewal]:
        sizes.append(len(held))
        return granted(held)

    with keeper(renew) as leases, ExitStack() as stack:
        for step_no in range(20):
            stack.enter_context(leases.keep(claim(step_no), since=time.monotonic()))
        eventually(lambda: 20 in sizes)


def test_an_idle_keeper_asks_nothing() -> None:
    asked: list[Sequence[Held]] = []
    beats = threading.Semaphore(0)

    def renew(held: Sequence[Held]) -> list[Renewal]:
        asked.append(held)
        return granted(held)

    made = LeaseKeeper(renew, beats.release, lease_ms=LEASE_MS, kill_grace_ms=KILL_GRACE_MS)
    made.start()
    assert beats.acquire(timeout=5)
    made.renew_once()
    made.close()

    assert asked == []


def test_a_fresh_lease_is_not_renewed() -> None:
    asked: list[Sequence[Held]] = []

    def renew(held: Sequence[Held]) -> list[Renewal]:
        asked.append(held)
        return granted(held)

    made = LeaseKeeper(renew, lambda: None, lease_ms=60_000, kill_grace_ms=2_000)
    with made.keep(claim(), since=time.monotonic()):
        made.renew_once()

    assert asked == []


@pytest.mark.parametrize(
    ("valid", "cancel_requested", "reason"),
    [(False, False, StopReason.LEASE_LOST), (True, True, StopReason.CANCELLED)],
)
def test_what_the_renewal_says_stops_the_attempt(
    valid: bool, cancel_requested: bool, reason: StopReason
) -> None:
    def renew(held: Sequence[Held]) -> list[Renewal]:
        return [Renewal(held=one, valid=valid, cancel_requested=cancel_requested) for one in held]

    with keeper(renew) as leases, leases.keep(claim(), since=time.monotonic()) as lease:
        assert lease.stop.wait(5)
        assert lease.stop.reason is reason


def test_a_lease_that_the_renewal_does_not_mention_is_lost() -> None:
    with keeper(lambda _: []) as leases, leases.keep(claim(), since=time.monotonic()) as lease:
        assert lease.stop.wait(5)
        assert lease.stop.reason is StopReason.LEASE_LOST


def test_only_the_lost_one_is_stopped() -> None:
    def renew(held: Sequence[Held]) -> list[Renewal]:
        return [Renewal(held=one, valid=one.step_no != 1, cancel_requested=False) for one in held]

    with keeper(renew) as leases, ExitStack() as stack:
        kept, lost = (
            stack.enter_context(leases.keep(claim(step_no), since=time.monotonic())) for step_no in (0, 1)
        )
        assert lost.stop.wait(5)
        assert kept.stop.reason is None


def test_attempts_are_stopped_before_the_lease_ends_when_postgresql_is_away() -> None:
    def renew(_: Sequence[Held]) -> list[Renewal]:
        raise StoreUnavailable("away")

    with keeper(renew) as leases:
        since = time.monotonic()
        with leases.keep(claim(), since=since) as lease:
            assert lease.stop.wait(5)
            assert lease.stop.reason is StopReason.LEASE_LOST
            assert time.monotonic() - since < LEASE_MS / 1000


def test_a_renewal_that_hangs_does_not_keep_the_stop_from_coming() -> None:
    thaw = threading.Event()

    def renew(held: Sequence[Held]) -> list[Renewal]:
        thaw.wait(30)
        return granted(held)

    with keeper(renew) as leases:
        since = time.monotonic()
        with leases.keep(claim(), since=since) as lease:
            assert lease.stop.wait(5)
            assert lease.stop.reason is StopReason.LEASE_LOST
            assert time.monotonic() - since < LEASE_MS / 1000
        thaw.set()


def test_an_answer_that_comes_too_late_does_not_bring_a_lease_back() -> None:
    thaw = threading.Event()
    answered = threading.Event()

    def renew(held: Sequence[Held]) -> list[Renewal]:
        thaw.wait(30)
        answered.set()
        return granted(held)

    with keeper(renew) as leases, leases.keep(claim(), since=time.monotonic()) as lease:
        assert lease.stop.wait(5)
        thaw.set()
        assert answered.wait(5)
        assert lease.stop.reason is StopReason.LEASE_LOST
        assert leases.running() == 0


def test_the_lease_counts_from_before_the_call_that_granted_it() -> None:
    with keeper(granted) as leases:
        long_ago = time.monotonic() - LEASE_MS / 1000
        with leases.keep(claim(), since=long_ago) as lease:
            # Within the block already: the attempt must not begin.
            assert lease.stop.reason is StopReason.LEASE_LOST


def test_an_unforeseen_error_does_not_end_the_renewals() -> None:
    calls: list[int] = []

    def renew(held: Sequence[Held]) -> list[Renewal]:
        calls.append(1)
        if len(calls) == 1:
            raise KeyError("a mistake")
        return granted(held)

    made = LeaseKeeper(renew, lambda: None, lease_ms=1_500, kill_grace_ms=KILL_GRACE_MS)
    made.start()
    with capture_logs() as lines, made.keep(claim(), since=time.monotonic()) as lease:
        eventually(lambda: len(calls) > 3)
        assert lease.stop.reason is None
    made.close()

    assert made.failed.count == 1
    assert "lease_renewal_failed" in [line["event"] for line in lines]


def test_stopping_all_reaches_claims_that_come_later() -> None:
    with keeper(granted) as leases, leases.keep(claim(0), since=time.monotonic()) as early:
        leases.stop_all(StopReason.RELEASED)
        with leases.keep(claim(1), since=time.monotonic()) as late:
            assert early.stop.reason is StopReason.RELEASED
            assert late.stop.reason is StopReason.RELEASED
