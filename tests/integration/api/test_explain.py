"""Why a step is where it is; the tests are the workers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

import pytest

from shared.domain.models import Claim, Failed, RunId, Sha256, Succeeded, TenantId, TenantLimits, WorkerId
from shared.domain.states import ErrorCode
from shared.services import dispatch, limits, workers
from tests.integration.api.conftest import Api
from tests.support import verbs
from tests.support.eventually import eventually

ACME, WORKER = TenantId("acme"), WorkerId("w1")
HASH = Sha256("ab" * 32)
DONE = Succeeded(outputs={}, outputs_hash=HASH, inputs_hash=HASH)
FAILED = Failed(error_code=ErrorCode.EXIT_STATUS, error_message="exit status 7", retry_delay_ms=None)
Document = dict[str, object]


def publish(api: Api, *edges: str, steps: str = "", **options: Mapping[str, object]) -> None:
    """Publish the DAG ``d``: ``publish(api, "a>b", steps="c", b={"pool": "gpu"})``."""
    pairs = [edge.split(">") for edge in edges]
    names = sorted({name for pair in pairs for name in pair} | set(steps.split()))
    body = {
        "dagId": "d",
        "version": "1.0.0",
        "steps": [{"id": name, "uses": "noop", **options.get(name, {})} for name in names],
        "edges": [{"from": source, "to": target} for source, target in pairs],
    }
    response = api.post("/dags", body)
    assert response.status_code == 201, response.data


def start(api: Api) -> str:
    run_id = api.post("/runs", {"dagId": "d"}).get_json()["runId"]
    assert isinstance(run_id, str)
    return run_id


def listen(api: Api, *pools: str) -> None:
    workers.register(api.parts.db_of_all, WORKER, pools=pools, slots=8)


def claim(api: Api, run_id: str, step_no: int) -> Claim:
    db = api.parts.db_of_all
    taken = verbs.claim(db, ACME, RunId(UUID(run_id)), step_no, worker_id=WORKER, lease_ms=60_000)
    assert taken is not None
    return taken


def end(api: Api, taken: Claim, outcome: Succeeded | Failed = DONE) -> None:
    db = api.parts.db_of_all
    verbs.complete(db, taken, outcome, worker_id=WORKER, handoff_pools=frozenset(), lease_ms=60_000)


def explain(api: Api, run_id: str, step_id: str) -> tuple[str, list[Document]]:
    """Ask why; the messages, which are for people, must be there and are taken out."""
    response = api.get(f"/runs/{run_id}/steps/{step_id}:explain")
    assert response.status_code == 200, response.data
    body = response.get_json()
    assert set(body) == {"status", "reasons"}
    for reason in body["reasons"]:
        assert len(reason.pop("message")) > 10
    return body["status"], body["reasons"]


def test_a_pending_step_names_the_predecessors_that_it_waits_for(api: Api) -> None:
    publish(api, "a>z", "b>z", "c>z")
    run_id = start(api)
    end(api, claim(api, run_id, 0))
    claim(api, run_id, 1)
    waits_for = [{"stepId": "b", "status": "running"}, {"stepId": "c", "status": "queued"}]
    assert explain(api, run_id, "z") == (
        "pending",
        [{"code": "PREDECESSORS", "steps": waits_for, "count": 2}],
    )


def test_of_many_predecessors_the_first_are_named(api: Api) -> None:
    publish(api, *(f"s{n:03}>z" for n in range(50)))
    _, ((reason),) = explain(api, start(api), "z")
    assert reason["count"] == 50
    assert reason["steps"] == [{"stepId": f"s{n:03}", "status": "queued"} for n in range(20)]


def test_a_step_whose_when_is_to_be_evaluated_waits_for_a_worker_only(api: Api) -> None:
    publish(api, steps="a", a={"when": "true"})
    run_id = start(api)
    waits: Document = {"code": "PREDECESSORS", "steps": [], "count": 0}
    assert explain(api, run_id, "a") == ("pending", [{"code": "NO_WORKERS", "pool": None}, waits])
    listen(api, "gpu")
    assert explain(api, run_id, "a") == ("pending", [waits])


def test_a_queued_step_tells_its_place_and_who_listens(api: Api) -> None:
    # What is queued in the pool gpu is sent first, two messages a slot; eight slots count at the least.
    publish(
        api, steps=" ".join(f"s{n:02}" for n in range(20)), **{f"s{n:02}": {"pool": "gpu"} for n in range(20)}
    )
    run_id = start(api)
    eventually(lambda: explain(api, run_id, "s15")[1][-1]["sent"])
    place: Document = {"code": "QUEUED", "pool": "gpu", "positionExact": True}
    status, reasons = explain(api, run_id, "s18")
    assert status == "queued"
    assert reasons == [
        {"code": "NO_WORKERS", "pool": "gpu"},
        {**place, "position": 19, "sent": False, "workers": 0, "slots": 0},
    ]
    listen(api, "default", "gpu")
    assert explain(api, run_id, "s00")[1] == [
        {**place, "position": 1, "sent": True, "workers": 1, "slots": 8},
    ]
    other = api.as_("globex")
    publish(other, steps="s00", s00={"pool": "gpu"})
    # Its own queue is all that a tenant sees.
    assert explain(other, start(other), "s00")[1][0]["position"] == 1


def test_a_step_behind_ten_thousand_is_told_so(api: Api) -> None:
    publish(api, steps="a")
    run_id = start(api)
    eventually(lambda: explain(api, run_id, "a")[1][-1]["sent"])
    with api.parts.db.transaction(ACME) as cur:
        # Rows of no run: only their number is looked at.
        cur.execute(
            "INSERT INTO orch.steps (tenant, run_id, step_no, status, pool, waiting, queued_utc)"
            " SELECT 'acme', '0191f000-0000-7000-8000-000000000001', n, 'queued', 'default', 0, '2020-01-01'"
            " FROM generate_series(0, 10500) AS n"
        )
        cur.execute("UPDATE orch.steps SET sent_utc = NULL")
    reason = explain(api, run_id, "a")[1][-1]
    assert (reason["position"], reason["positionExact"]) == (10_001, False)


def test_a_limit_names_itself_and_who_holds_it(api: Api) -> None:
    publish(api, steps="a b")
    limits.put(api.parts.db, ACME, TenantLimits(max_running_steps=1))
    run_id = start(api)
    eventually(lambda: explain(api, run_id, "a")[1][-1]["sent"])
    listen(api, "default")
    limit: Document = {"code": "LIMIT", "limit": "maxRunningSteps", "max": 1}
    first, place = explain(api, run_id, "b")[1]
    assert first == {**limit, "heldBy": [{"runId": run_id, "stepId": "a", "status": "queued"}]}
    assert (place["code"], place["position"]) == ("QUEUED", 2)
    taken = claim(api, run_id, 0)
    assert explain(api, run_id, "b")[1][0]["heldBy"] == [
        {"runId": run_id, "stepId": "a", "status": "running"}
    ]
    end(api, taken)
    assert [reason["code"] for reason in explain(api, run_id, "b")[1]] == ["QUEUED"]
    dispatch.pick(api.parts.db, "default", ACME)
    assert [reason["code"] for reason in explain(api, run_id, "b")[1]] == ["QUEUED"]


def test_a_concurrency_key_names_itself_and_who_holds_it(api: Api) -> None:
    key: Document = {"concurrencyKey": "db"}
    publish(api, steps="a b c", a=key, b=key, c=key)
    run_id = start(api)
    listen(api, "default")
    eventually(lambda: explain(api, run_id, "a")[1][-1]["sent"])
    limit: Document = {"code": "LIMIT", "limit": "concurrencyKey", "key": "db", "max": 1}
    first, place = explain(api, run_id, "c")[1]
    assert first == {**limit, "heldBy": [{"runId": run_id, "stepId": "a", "status": "queued"}]}
    assert (place["code"], place["position"], place["sent"]) == ("QUEUED", 2, False)
    taken = claim(api, run_id, 0)
    holder = {"runId": run_id, "stepId": "a", "status": "running"}
    assert explain(api, run_id, "b")[1][0]["heldBy"] == [holder]
    other = api.as_("globex")
    publish(other, steps="a b", a=key, b=key)
    theirs = start(other)
    eventually(lambda: explain(other, theirs, "a")[1][-1]["sent"])
    # A key is of the tenant: nobody learns who else has one of that name.
    assert explain(other, theirs, "b")[1][0]["heldBy"] == [
        {"runId": theirs, "stepId": "a", "status": "queued"}
    ]
    end(api, taken)
    assert [reason["code"] for reason in explain(api, run_id, "b")[1]] == ["QUEUED"]
    assert [reason["code"] for reason in explain(api, run_id, "c")[1]] == ["LIMIT", "QUEUED"]


def test_a_retry_tells_when_it_is_due_and_what_it_is_for(api: Api) -> None:
    publish(api, steps="a", a={"retry": {"maxAttempts": 3, "initialDelayMs": 60_000}})
    run_id = start(api)
    again = Failed(error_code=ErrorCode.EXIT_STATUS, error_message="exit status 7", retry_delay_ms=60_000)
    end(api, claim(api, run_id, 0), again)
    status, (reason,) = explain(api, run_id, "a")
    assert status == "retrying"
    assert (reason["code"], reason["attempt"], reason["errorCode"]) == ("RETRY_DUE", 1, "EXIT_STATUS")
    assert reason["dueUtc"] == api.get(f"/runs/{run_id}/steps/a").get_json()["dueUtc"]
    assert datetime.fromisoformat(str(reason["dueUtc"])) > datetime.now(UTC)


def test_a_running_step_has_no_reason_until_it_is_told_to_stop(api: Api) -> None:
    publish(api, steps="a")
    run_id = start(api)
    claim(api, run_id, 0)
    assert explain(api, run_id, "a") == ("running", [])
    api.post(f"/runs/{run_id}:cancel", {"reason": "wrong feed"})
    status, (reason,) = explain(api, run_id, "a")
    assert (status, reason["code"], reason["reason"]) == ("running", "CANCEL_REQUESTED", "wrong feed")
    assert reason["cancelRequestedUtc"] == api.get(f"/runs/{run_id}").get_json()["cancelRequestedUtc"]


def test_a_step_that_has_ended_tells_how_and_why(api: Api) -> None:
    publish(api, "a>b", steps="c d", c={"disabled": True})
    run_id = start(api)
    end(api, claim(api, run_id, 0), FAILED)
    end(api, claim(api, run_id, 3))
    for step_id, ended in {
        "a": ("failed", "EXIT_STATUS", "exit status 7"),
        "b": ("skipped", "UPSTREAM_FAILED", None),
        "c": ("skipped", "STEP_DISABLED", None),
        "d": ("succeeded", None, None),
    }.items():
        status, (reason,) = explain(api, run_id, step_id)
        assert (status, reason["errorCode"], reason["errorMessage"]) == ended
        assert (reason["code"], reason["status"]) == ("FINISHED", status)
        assert reason["endedUtc"] == api.get(f"/runs/{run_id}/steps/{step_id}").get_json()["endedUtc"]


@pytest.mark.parametrize("tenant", ["acme", "globex"])
def test_what_is_not_there_or_is_not_ones_own_is_not_explained(api: Api, tenant: str) -> None:
    publish(api, steps="a")
    run_id = start(api)
    caller = api if tenant == "acme" else api.as_(tenant)
    missing = caller.get(f"/runs/{UUID(int=7)}/steps/a:explain")
    assert (missing.status_code, missing.get_json()["error"]["code"]) == (404, "RUN_NOT_FOUND")
    response = caller.get(f"/runs/{run_id}/steps/b:explain")
    code = "STEP_NOT_FOUND" if tenant == "acme" else "RUN_NOT_FOUND"
    assert (response.status_code, response.get_json()["error"]["code"]) == (404, code)
    assert caller.post(f"/runs/{run_id}/steps/a:explain").status_code == 405
