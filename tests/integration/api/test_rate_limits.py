from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from orchestrator_api.app import create_app
from orchestrator_api.rate_limit import PAUSE_SECONDS, TIMEOUT_SECONDS, RateClass, RateLimits
from tests.integration.api.conftest import Api
from tests.support.servers import own_redis

NOW = 1_800_000_030.0
HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


def limited(api: Api, redis_url: str, overall: int, **by_class: int) -> Api:
    """The same API with other limits, at half past a minute that never ends."""
    limits = RateLimits(
        redis_url,
        overall=overall,
        by_class={RateClass(name): limit for name, limit in by_class.items()},
        now=lambda: NOW,
    )
    parts = replace(api.parts, rate_limits=limits)
    return replace(api, app=create_app(parts), parts=parts)


def standing(api: Api, path: str = "/runs") -> list[int]:
    headers = api.get(path).headers
    return [int(headers[name]) for name in HEADERS]


def test_every_answer_to_a_known_caller_tells_how_the_tenant_stands(api: Api, redis_url: str) -> None:
    few = limited(api, redis_url, 100)
    answers = [
        few.get("/runs"),
        few.post("/dags", {}),
        few.get("/nowhere"),
        few.call("DELETE", "/runs"),
        few.get("/runs/none"),
        few.as_("acme", scope="").get("/runs"),
        few.call("GET", "/runs", headers={"Accept": "image/png"}),
        few.get("/admin/health"),
    ]
    assert [answer.status_code for answer in answers] == [200, 422, 404, 405, 400, 403, 406, 503]
    for used, answer in enumerate(answers, start=1):
        assert [int(answer.headers[name]) for name in HEADERS] == [100, 100 - used, 1_800_000_060]
    assert few.get("/runs", headers={"X-Stella-Tenant": "globex"}).status_code == 403
    assert standing(few) == [100, 100 - len(answers) - 2, 1_800_000_060]


def test_who_is_not_known_is_told_nothing(api: Api) -> None:
    for answer in (
        api.anonymous().get("/admin/health"),
        api.anonymous().get("/runs"),
        api.get("/runs", headers={"Authorization": "Bearer a.b.c"}),
        api.get("/nowhere", headers={"Authorization": "Bearer a.b.c"}),
    ):
        assert not set(HEADERS) & set(answer.headers.keys())


def test_over_the_limit_a_tenant_is_told_when_to_come_back_and_others_go_on(api: Api, redis_url: str) -> None:
    few = limited(api, redis_url, 3)
    assert [few.get("/runs").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    refused = few.get("/runs")
    assert refused.get_json()["error"]["code"] == "RATE_LIMITED"
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.headers["X-RateLimit-Remaining"] == "0"
    assert few.as_("globex").get("/runs").status_code == 200


def test_an_operator_counts_towards_the_tenant_that_he_acts_for(api: Api, redis_url: str) -> None:
    few = limited(api, redis_url, 5)
    operator = few.as_("acme", tenant=None, tenants=["*"])
    assert standing(operator)[1] == 4
    assert standing(few)[1] == 3
    everywhere = few.as_("*", tenant=None, tenants=["*"])
    assert standing(everywhere, "/admin/health")[1] == 4


def test_a_class_of_endpoints_may_have_a_limit_of_its_own(api: Api, redis_url: str) -> None:
    few = limited(api, redis_url, 100, change=1)
    assert few.post("/runs", {"dagId": "none"}).status_code == 404
    refused = few.post("/runs", {"dagId": "none"})
    assert (refused.status_code, refused.headers["X-RateLimit-Limit"]) == (429, "1")
    assert standing(few) == [100, 97, 1_800_000_060]


def test_the_next_minute_is_a_new_one(redis_url: str) -> None:
    clock = [NOW]
    limits = RateLimits(redis_url, overall=1, now=lambda: clock[0])
    assert not limits.take("acme", RateClass.READ).exceeded
    assert limits.take("acme", RateClass.READ).exceeded
    clock[0] += 30
    assert not limits.take("acme", RateClass.READ).exceeded


def test_a_large_limit_is_taken_in_blocks_and_given_out_one_by_one(redis_url: str) -> None:
    one, other = (RateLimits(redis_url, overall=10_005, now=lambda: NOW) for _ in range(2))
    assert [one.take("acme", RateClass.READ).remaining for _ in range(3)] == [10_004, 10_003, 10_002]
    # What the first has taken and not given out is not the second's to give.
    assert other.take("acme", RateClass.READ).remaining == 10_005 - 10 - 1
    standings = [one.take("acme", RateClass.READ) for _ in range(10_005)]
    served = [standing for standing in standings if not standing.exceeded]
    assert len(served) == 10_005 - 3 - 10
    assert served[-1].remaining == 0
    assert standings[-1].exceeded
    assert sum(not other.take("acme", RateClass.READ).exceeded for _ in range(20)) == 9
    assert one.take("globex", RateClass.READ).remaining == 10_004


def test_a_frozen_redis_costs_one_request_in_many_a_moment_and_refuses_none(api: Api, tmp_path: Path) -> None:
    with own_redis(tmp_path) as (url, process):
        few = limited(api, url, 3)
        _outlive(few, process)


def _outlive(few: Api, process: subprocess.Popen[bytes]) -> None:
    limits = few.parts.rate_limits
    assert standing(few)[1] == 2
    process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        answers = [few.get("/runs") for _ in range(10)]
        took = time.monotonic() - began
    finally:
        process.send_signal(signal.SIGCONT)
    assert [answer.status_code for answer in answers] == [200] * 10
    assert answers[0].headers["X-RateLimit-Remaining"] == "3"
    assert limits.unchecked.count == 10
    assert took < TIMEOUT_SECONDS + PAUSE_SECONDS
