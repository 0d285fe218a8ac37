"""The page for Prometheus: whose series are on it, and that it stays small."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator_api.app import create_app
from orchestrator_api.web_metrics import WebMetrics
from shared.domain.models import Sha256, Succeeded, WorkerId
from shared.services import workers
from shared.store.db import Database
from tests.integration.api.conftest import Api, finish_step
from tests.support.eventually import eventually

TENANTS = 50
RUNS = int(os.environ.get("METRICS_RUNS", "250"))
PAGE_BYTES = 200_000
PAGE_SECONDS = 0.1
"""For the page of one tenant."""
Labels = frozenset[tuple[str, str]]
Page = dict[tuple[str, Labels], float]
DONE = Succeeded(outputs={}, outputs_hash=Sha256("ab" * 32), inputs_hash=Sha256("ab" * 32))
DAG = {"dagId": "one", "version": "1.0.0", "steps": [{"id": "a", "uses": "noop"}]}


def parsed(text: str) -> Page:
    """Read a page as Prometheus does."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def page(api: Api) -> Page:
    response = api.get("/admin/metrics")
    assert response.status_code == 200, response.get_data(as_text=True)
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    return parsed(response.get_data(as_text=True))


def value(of: Page, name: str, **labels: str) -> float | None:
    return of.get((name, frozenset(labels.items())))


def tenants(of: Page) -> set[str]:
    return {tenant for _, labels in of for name, tenant in labels if name == "tenant"}


def started(api: Api) -> str:
    api.post("/dags", DAG)
    run_id: str = api.post("/runs", {"dagId": "one"}).get_json()["runId"]
    return run_id


def completed(api: Api) -> None:
    finish_step(api, started(api), 0, DONE)


@pytest.fixture
def operator(api: Api) -> Api:
    return api.as_("*", tenant=None, tenants=["*"])


def test_a_run_that_has_just_ended_is_on_the_page(api: Api) -> None:
    completed(api)
    waiting = started(api)
    eventually(
        lambda: value(page(api), "orchestrator_runs_total", tenant="acme", status="completed") == 1, within=3
    )
    now = page(api)
    one = {"tenant": "acme", "status": "completed"}
    assert value(now, "orchestrator_run_duration_seconds_count", **one) == 1
    assert value(now, "orchestrator_run_duration_seconds_bucket", **one, le="+Inf") == 1
    took = value(now, "orchestrator_run_duration_seconds_sum", **one)
    assert took is not None
    assert 0 <= took < 60
    attempts = {"tenant": "acme", "status": "succeeded"}
    assert value(now, "orchestrator_step_duration_seconds_count", **attempts) == 1
    assert value(now, "orchestrator_step_retries_total", tenant="acme") == 0
    assert value(now, "orchestrator_queue_depth", tenant="acme", pool="default") == 1
    assert value(now, "orchestrator_queue_depth", tenant="acme", pool="gpu") == 0
    age = value(now, "orchestrator_queue_oldest_age_seconds", tenant="acme", pool="default")
    assert age is not None
    assert 0 < age < 60
    finish_step(api, waiting, 0, DONE)
    assert value(page(api), "orchestrator_queue_depth", tenant="acme", pool="default") == 0


def test_workers_are_counted_by_pool(api: Api, service_db: Database) -> None:
    assert value(page(api), "orchestrator_workers", pool="gpu") == 0
    workers.register(service_db, WorkerId("w1"), pools=("default", "gpu"), slots=8)
    workers.register(service_db, WorkerId("w2"), pools=("default",), slots=8)
    now = page(api)
    assert value(now, "orchestrator_workers", pool="default") == 2
    assert value(now, "orchestrator_workers", pool="gpu") == 1


def test_a_tenant_sees_its_own_series_only_and_an_operator_all(api: Api, operator: Api) -> None:
    other = api.as_("globex")
    for each in (api, other):
        assert each.post(f"/runs/{started(each)}:cancel").status_code == 202
        started(each)
    response = api.get("/admin/metrics", headers={"X-Stella-Tenant": "acme"})
    assert "globex" not in response.get_data(as_text=True)
    assert tenants(page(api)) == {"acme"}
    assert tenants(page(other)) == {"globex"}
    assert tenants(page(operator)) == {"acme", "globex"}
    eventually(
        lambda: value(page(operator), "orchestrator_runs_total", tenant="globex", status="cancelled") == 1
    )


@pytest.mark.parametrize(
    ("header", "claims", "expected"),
    [
        (None, {"tenant": "acme"}, {"acme"}),
        ("acme", {"tenant": None, "tenants": ["acme", "globex"]}, {"acme"}),
        (None, {"tenant": None, "tenants": ["*"]}, {"acme", "globex"}),
        ("*", {"tenant": None, "tenants": ["*"]}, {"acme", "globex"}),
        ("globex", {"tenant": None, "tenants": ["*"]}, {"globex"}),
    ],
)
def test_the_header_may_be_left_out_or_narrow_what_is_seen(
    api: Api, header: str | None, claims: dict[str, object], expected: set[str]
) -> None:
    started(api)
    started(api.as_("globex"))
    caller = Api(
        app=api.app, parts=api.parts, signer=api.signer, tenant=header, token=api.signer.token(claims)
    )
    assert tenants(page(caller)) == expected


@pytest.mark.parametrize(
    ("header", "claims", "code"),
    [
        ("*", {"tenant": "acme"}, "TENANT_FORBIDDEN"),
        ("globex", {"tenant": "acme"}, "TENANT_FORBIDDEN"),
        (None, {"tenant": None, "tenants": ["acme", "globex"]}, "TENANT_REQUIRED"),
        (None, {"tenant": None}, "TENANT_REQUIRED"),
        (None, {"tenant": "acme", "scope": "orchestrator:read"}, "INSUFFICIENT_SCOPE"),
        ("*", {"tenant": None, "tenants": ["*"], "scope": "orchestrator:write"}, "INSUFFICIENT_SCOPE"),
    ],
)
def test_who_may_not_see_it_learns_nothing(
    api: Api, header: str | None, claims: dict[str, object], code: str
) -> None:
    started(api.as_("globex"))
    caller = Api(
        app=api.app, parts=api.parts, signer=api.signer, tenant=header, token=api.signer.token(claims)
    )
    response = caller.get("/admin/metrics")
    assert (response.status_code, response.get_json()["error"]["code"]) == (403, code)
    assert "globex" not in response.get_json()["error"]["message"]


def test_requests_are_counted_by_the_template_of_their_route(api: Api) -> None:
    for _ in range(3):
        api.get(f"/runs/{uuid4()}")
    api.anonymous().get("/runs")
    for path in ("/nowhere", f"/somewhere/{uuid4()}", "/runs/a/b/c/d"):
        api.get(path)
    for method in ("PROPFIND", f"M{uuid4().hex[:8]}"):
        api.call(method, "/runs")
    now = page(api)
    counts = {
        labels["url_rule"] + " " + labels["status"]: count
        for (name, pairs), count in now.items()
        for labels in [dict(pairs)]
        if name == "flask_http_request_duration_seconds_count"
    }
    assert counts == {"/runs/{run_id} 404": 3, "/runs 401": 1, "none 404": 3}
    assert value(now, "flask_http_request_total", method="GET", status="404") == 6
    assert value(now, "orchestrator_http_odd_methods_total") == 2


def test_the_page_does_not_grow_with_runs(api: Api) -> None:
    def work_and_look() -> Page:
        for _ in range(3):
            completed(api)
            api.get(f"/runs/{started(api)}")
        eventually(lambda: value(page(api), "orchestrator_runs_total", tenant="acme", status="completed"))
        return page(api)

    before, after = work_and_look(), work_and_look()
    assert set(after) == set(before)
    assert after != before


def test_the_page_of_many_tenants_is_small_and_quick_and_does_not_grow(api: Api, operator: Api) -> None:
    names = [f"tenant-{number:02}" for number in range(TENANTS)]
    apis = [api.as_(name) for name in names]
    for each in apis:
        each.post("/dags", DAG)

    def work_and_look(rounds: int) -> list[str]:
        for _ in range(rounds):
            for name, each in zip(names, apis, strict=True):
                run_id = each.post("/runs", {"dagId": "one"}).get_json()["runId"]
                finish_step(each, run_id, 0, DONE, tenant=name)
                each.get(f"/runs/{run_id}")
        eventually(lambda: tenants_with_runs(page(operator)) == set(names))
        return [each.get("/admin/metrics").get_data(as_text=True) for each in (apis[0], operator)]

    before, after = work_and_look(1), work_and_look(RUNS // TENANTS)
    assert [set(parsed(text)) for text in after] == [set(parsed(text)) for text in before]
    assert after != before
    assert len(after[0]) <= PAGE_BYTES
    took = []
    for _ in range(5):
        since = time.monotonic()
        apis[0].get("/admin/metrics")
        took.append(time.monotonic() - since)
    assert min(took) <= PAGE_SECONDS


def tenants_with_runs(of: Page) -> set[str]:
    return {dict(labels)["tenant"] for name, labels in of if name == "orchestrator_runs_total"}


@pytest.mark.parametrize("failure", ["doorbells_not_sent", "dispatch_hints_dropped", "rate_limit_unchecked"])
def test_failures_behind_the_requests_are_counted(api: Api, failure: str) -> None:
    noted: dict[str, Callable[[], None]] = {
        "doorbells_not_sent": api.parts.dispatcher.failed.note,
        "dispatch_hints_dropped": api.parts.dispatcher.dropped.note,
        "rate_limit_unchecked": api.parts.rate_limits.unchecked.note,
    }
    api.parts.metrics.count(
        not_sent=api.parts.dispatcher.failed,
        hints_dropped=api.parts.dispatcher.dropped,
        rate_limit_unchecked=api.parts.rate_limits.unchecked,
    )
    noted[failure]()
    noted[failure]()
    assert value(page(api), f"orchestrator_{failure}_total") == 2


def test_without_postgresql_it_is_unavailable(api: Api) -> None:
    nowhere = Database("postgresql:///none?host=/nonexistent", role="orch_api", size=1, application_name="t")
    app = create_app(replace(api.parts, db=nowhere, db_of_all=nowhere, metrics=WebMetrics()))
    cut_off = Api(app=app, parts=api.parts, signer=api.signer, tenant="acme", token=api.token)
    response = cut_off.get("/admin/metrics")
    assert (response.status_code, response.get_json()["error"]["code"]) == (503, "UNAVAILABLE")
