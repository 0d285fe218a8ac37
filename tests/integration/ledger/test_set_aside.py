"""A row that a verb of the sweeper fails on keeps no other from its turn, and gets its own again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import psycopg2
import psycopg2.errors
import pytest
from psycopg2.extensions import cursor as OwnerCursor

from shared.domain.models import Run
from shared.domain.states import StepStatus
from shared.errors import StoreUnavailable
from shared.services import dispatch, health, metrics, recovery
from tests.support.eventually import eventually
from tests.support.graphs import graph
from tests.support.ledger import ACME, Ledger, failed

RETRIED = {"a": {"retry": {"maxAttempts": 3}}}
FAILING = """
    CREATE FUNCTION break_it() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '%s' USING ERRCODE = '%s';
    END;
    $$;
    CREATE TRIGGER break_it BEFORE UPDATE ON orch.steps
    FOR EACH ROW WHEN (old.run_id = '%s') EXECUTE FUNCTION break_it();
"""


@pytest.fixture
def owner(owner_url: str) -> Iterator[OwnerCursor]:
    connection = psycopg2.connect(owner_url)
    connection.autocommit = True
    with connection.cursor() as cur:
        yield cur
    connection.close()


def break_updates(owner: OwnerCursor, run: Run, sqlstate: str = "P0001") -> None:
    owner.execute(FAILING % ("broken", sqlstate, run.run_id))


def scrap(owner: OwnerCursor) -> None:
    """Throw the broken ledger away: the fixture would find that it is broken."""
    owner.execute(
        "TRUNCATE orch.runs, orch.run_inputs, orch.steps, orch.attempts, orch.events, orch.metric_totals,"
        " orch.metric_marks"
    )


def mend(owner: OwnerCursor) -> None:
    owner.execute("DROP TRIGGER break_it ON orch.steps; DROP FUNCTION break_it()")
    owner.execute("UPDATE orch.set_aside SET next_utc = clock_timestamp()")


def aside(ledger: Ledger) -> Sequence[tuple[str, str, int]]:
    """Give what is set aside, each with the run and how often it was tried."""
    return [(row.verb, str(row.run_id), row.tries) for row in health.set_aside(ledger.api, ledger.tenant)]


def start_three(ledger: Ledger) -> tuple[Run, Run, Run]:
    first, second, third = (ledger.start(graph("", steps="a", options=RETRIED)) for _ in range(3))
    return first, second, third


def status(ledger: Ledger, run: Run) -> StepStatus:
    return ledger.step(run, "a").status


def test_a_retry_that_cannot_be_woken_holds_up_no_other(ledger: Ledger, owner: OwnerCursor) -> None:
    runs = start_three(ledger)
    for run in runs:
        ledger.run_step(run, "a", failed(retry_delay_ms=0))
    break_updates(owner, runs[0])

    assert ledger.wake()

    assert [status(ledger, run) for run in runs] == ["retrying", "queued", "queued"]
    assert aside(ledger) == [("wake", str(runs[0].run_id), 1)]
    # It is not due again before its pause is over: the sweeper may sleep.
    assert recovery.next_due_ms(ledger.service) is None
    assert not ledger.wake()
    mend(owner)
    assert ledger.wake()
    assert status(ledger, runs[0]) is StepStatus.QUEUED
    assert aside(ledger) == []


def test_a_step_that_cannot_be_rescued_holds_up_no_other(ledger: Ledger, owner: OwnerCursor) -> None:
    runs = start_three(ledger)
    for run in runs:
        ledger.claimed(run, "a", lease_ms=0)
    break_updates(owner, runs[0])

    assert ledger.rescue().backlogs

    assert [status(ledger, run) for run in runs] == ["running", "queued", "queued"]
    assert aside(ledger) == [("rescue", str(runs[0].run_id), 1)]
    mend(owner)
    assert ledger.rescue().backlogs
    assert status(ledger, runs[0]) is StepStatus.QUEUED
    assert aside(ledger) == []


RUN_GONE = "DELETE FROM orch.run_inputs WHERE run_id = %(run)s; DELETE FROM orch.runs WHERE run_id = %(run)s"
DEFINITION_GONE = """
    DELETE FROM orch.dag_steps
    WHERE dag_version_id IN (SELECT dag_version_id FROM orch.runs WHERE run_id = %(run)s)
"""


@pytest.mark.parametrize("damage", [RUN_GONE, DEFINITION_GONE], ids=["run", "definition"])
def test_a_step_whose_run_or_definition_is_gone_is_set_aside(
    ledger: Ledger, owner: OwnerCursor, damage: str
) -> None:
    runs = start_three(ledger)
    other = ledger.start(graph("", steps="a", dag_id="other"))
    for run in (*runs[1:], other):
        ledger.claimed(run, "a", lease_ms=0)
    owner.execute(damage, {"run": str(other.run_id)})

    assert ledger.rescue().backlogs

    assert [status(ledger, run) for run in runs] == ["queued"] * 3
    assert aside(ledger) == [("rescue", str(other.run_id), 1)]
    scrap(owner)


def test_a_doorbell_that_cannot_be_marked_holds_up_no_other(ledger: Ledger, owner: OwnerCursor) -> None:
    runs = start_three(ledger)
    assert len(ledger.pick()) == 3
    break_updates(owner, runs[0])

    sent = recovery.resend(ledger.service, "default", older_than_ms=0, limit=10)

    assert {bell.run_id for bell in sent} == {run.run_id for run in runs[1:]}
    assert aside(ledger) == [("resend", str(runs[0].run_id), 1)]
    # It does not look like a message that Redis has lost, for as long as it is aside.
    assert recovery.count_sent(ledger.service, "default") == 2


def test_a_queued_step_of_a_run_that_has_ended_is_set_aside(ledger: Ledger, owner: OwnerCursor) -> None:
    runs = start_three(ledger)
    assert len(ledger.pick()) == 3
    owner.execute(
        "UPDATE orch.runs SET status = 'failed', ended_utc = now() WHERE run_id = %s", (str(runs[0].run_id),)
    )

    sent = recovery.resend(ledger.service, "default", older_than_ms=0, limit=10)

    assert {bell.run_id for bell in sent} == {run.run_id for run in runs[1:]}
    assert aside(ledger) == [("resend", str(runs[0].run_id), 1)]
    scrap(owner)


def test_each_failure_doubles_the_pause_up_to_a_minute(ledger: Ledger, owner: OwnerCursor) -> None:
    pauses = []
    for _ in range(9):
        owner.execute("SELECT orch.put_aside('acme', 'wake', gen_random_uuid(), 0, 'x')")
    for _ in range(9):
        owner.execute(
            "SELECT orch.put_aside('acme', 'rescue', '01a21da3-af3d-7aff-b165-73fe436bd177', 0, 'x')"
        )
        owner.execute(
            "SELECT round(extract(EPOCH FROM next_utc - clock_timestamp()))::integer"
            " FROM orch.set_aside WHERE verb = 'rescue'"
        )
        pauses.append(owner.fetchall()[0][0])
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize("sqlstate", ["40001", "53200", "55P03"])
def test_what_is_no_fault_of_a_row_sets_none_aside(ledger: Ledger, owner: OwnerCursor, sqlstate: str) -> None:
    run = ledger.start(graph("", steps="a", options=RETRIED))
    ledger.run_step(run, "a", failed(retry_delay_ms=0))
    break_updates(owner, run, sqlstate)

    with pytest.raises((psycopg2.Error, StoreUnavailable)):
        ledger.wake()

    assert aside(ledger) == []


def test_an_event_that_cannot_be_counted_is_passed_over_and_all_others_are_counted(
    ledger: Ledger, owner: OwnerCursor
) -> None:
    runs = [ledger.start(graph("", steps="a")) for _ in range(20)]
    for run in runs:
        ledger.run_step(run, "a")
    for run in (runs[3], runs[11]):
        owner.execute(
            "UPDATE orch.events SET line = 'no json' WHERE run_id = %s AND seq = 1", (str(run.run_id),)
        )

    def completed() -> int:
        assert metrics.catch_up(ledger.api, ACME, within_seconds=5)
        totals = metrics.measure(ledger.api, ACME).totals
        return sum(total.count for total in totals if (total.metric, total.status) == ("run", "completed"))

    eventually(lambda: completed() == 20)
    assert {row[:2] for row in aside(ledger)} == {
        ("count", str(runs[3].run_id)),
        ("count", str(runs[11].run_id)),
    }
    scrap(owner)


def test_one_tenants_bad_event_keeps_no_other_tenant_from_being_counted(
    ledger: Ledger, owner: OwnerCursor
) -> None:
    first, last = (
        Ledger(api=ledger.api, service=ledger.service, tenant=type(ACME)(name)) for name in ("aaa", "zzz")
    )
    bad, good = first.start(graph("", steps="a")), last.start(graph("", steps="a"))
    first.run_step(bad, "a")
    last.run_step(good, "a")
    owner.execute("UPDATE orch.events SET line = '{' WHERE tenant = 'aaa'")

    eventually(
        lambda: (
            metrics.catch_up(ledger.service, None, within_seconds=5)
            and [t for t in metrics.measure(ledger.service, None).totals if t.tenant == "zzz"]
        )
    )
    assert {row[0] for row in aside(first)} == {"count"}
    assert aside(last) == []
    scrap(owner)


def test_a_decision_that_nothing_comes_of_is_asked_for_ever_less_often(
    ledger: Ledger, owner: OwnerCursor
) -> None:
    run = ledger.start(graph("", steps="a", options={"a": {"when": "true"}}))

    def asked() -> int:
        return len(recovery.ask_undecided(ledger.service, older_than_ms=0, limit=10))

    assert asked() == 1
    owner.execute("UPDATE orch.set_aside SET next_utc = clock_timestamp()")
    assert recovery.ask_undecided(ledger.service, older_than_ms=1_000, limit=10) == []
    owner.execute("UPDATE orch.steps SET undecided_utc = undecided_utc - INTERVAL '10 s'")
    for _ in range(3):
        owner.execute("UPDATE orch.set_aside SET next_utc = clock_timestamp()")
        assert len(recovery.ask_undecided(ledger.service, older_than_ms=1_000, limit=10)) == 1
        assert recovery.ask_undecided(ledger.service, older_than_ms=1_000, limit=10) == []
    owner.execute("SELECT extract(EPOCH FROM next_utc - clock_timestamp()) > 6 FROM orch.set_aside")
    assert owner.fetchall() == [(True,)]
    assert aside(ledger) == [("decide", str(run.run_id), 4)]


def test_a_run_that_got_on_is_asked_for_as_if_for_the_first_time(ledger: Ledger, owner: OwnerCursor) -> None:
    ledger.start(graph("", steps="a", options={"a": {"when": "true"}}))
    owner.execute("UPDATE orch.steps SET undecided_utc = undecided_utc - INTERVAL '10 s'")
    for _ in range(5):
        owner.execute("UPDATE orch.set_aside SET next_utc = clock_timestamp()")
        assert recovery.ask_undecided(ledger.service, older_than_ms=1_000, limit=10)
    # Somebody has decided what there was; this is another decision of the same run.
    owner.execute("UPDATE orch.set_aside SET last_utc = last_utc - INTERVAL '1 h', next_utc = now()")

    assert recovery.ask_undecided(ledger.service, older_than_ms=1_000, limit=10)

    owner.execute("SELECT tries FROM orch.set_aside")
    assert owner.fetchall() == [(1,)]


def test_what_is_set_aside_is_told_once(ledger: Ledger, owner: OwnerCursor) -> None:
    run = ledger.start(graph("", steps="a", options=RETRIED))
    ledger.run_step(run, "a", failed(retry_delay_ms=0))
    break_updates(owner, run)
    for _ in range(3):
        ledger.wake()
        owner.execute("UPDATE orch.set_aside SET next_utc = clock_timestamp()")

    (told,) = recovery.tell_aside(ledger.service)

    assert (told.verb, told.tenant, told.run_id, told.step_no) == ("wake", ACME, run.run_id, -1)
    assert told.reason == "P0001 broken"
    assert recovery.tell_aside(ledger.service) == []
    owner.execute("UPDATE orch.set_aside SET next_utc = now() - INTERVAL '1 h'")
    recovery.forget_aside(ledger.service)
    assert aside(ledger) == []


def test_a_step_of_a_pool_that_nobody_serves_any_more_holds_up_no_other(ledger: Ledger) -> None:
    gone = ledger.start(graph("", steps="a", options={"a": {"pool": "big"}}, dag_id="gone"))
    kept = ledger.start(graph("", steps="a"))

    assert {backlog.pool for backlog in recovery.backlogs(ledger.service)} == {"big", "default"}
    assert [bell.run_id for bell in dispatch.pick(ledger.service, "big", ACME)] == [gone.run_id]
    assert [bell.run_id for bell in dispatch.pick(ledger.service, "default", ACME)] == [kept.run_id]
