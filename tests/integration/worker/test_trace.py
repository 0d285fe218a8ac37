"""One trace from the caller through the API, the message and the worker to what a plugin calls."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from shared.domain.models import JsonObject, RunId, StepId
from shared.domain.trace import run_span_id
from shared.embedded.process_tree import descendants
from shared.services import runs, steps
from shared.store.events import list_events
from tests.integration.plugins.server import Server
from tests.integration.plugins.server import serving as serving_steps
from tests.integration.worker.fleet import ACME, Fleet, dag, step
from tests.support.collector import Collector, Span, running_collector
from tests.support.eventually import eventually
from tests.support.tokens import ec_signer
from tests.support.web import Web, serving

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
SHOW = "import json, os; print(json.dumps({n: v for n, v in os.environ.items() if n.startswith('TRACE')}))"
STEPS: list[JsonObject] = [
    {"id": "call", "uses": "http", "with": {"url": "${{ inputs.url }}"}},
    {"id": "show", "uses": "command", "with": {"argv": ["python", "-c", SHOW], "captureStdout": True}},
]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as running:
        yield running


@pytest.fixture
def service() -> Iterator[Server]:
    with serving_steps() as running:
        yield running


@contextmanager
def web_of(fleet: Fleet, **environ: str) -> Iterator[Web]:
    folder = fleet.folder / "web"
    folder.mkdir()
    urls = (fleet.environ["ORCH_DATABASE_URL"], fleet.environ["ORCH_REDIS_URL"])
    with serving(folder, ec_signer(), *urls, **environ) as web:
        yield web


def start(web: Web, service: Server, **trace: str) -> RunId:
    """Publish the two steps, and start a run of them as part of a trace."""
    with web.client() as client:
        edges = [{"from": "call", "to": "show"}]
        definition = {"dagId": "traced", "version": "1.0.0", "steps": STEPS, "edges": edges}
        client.post("/dags", json=definition, headers={"Idempotency-Key": str(uuid4())}).raise_for_status()
        started = client.post(
            "/runs",
            json={"dagId": "traced", "inputs": {"url": service.url("/json")}},
            headers={"Idempotency-Key": str(uuid4()), **trace},
        )
    started.raise_for_status()
    assert started.json()["traceId"] == started.headers["X-Trace-Id"]
    return RunId(UUID(started.json()["runId"]))


def shown(fleet: Fleet, run_id: RunId) -> dict[str, str]:
    """Give the variables that the second step has found."""
    outputs = steps.get(fleet.db, ACME, run_id, StepId("show"))[0].outputs
    assert outputs is not None
    found: dict[str, str] = json.loads(str(outputs["stdout"]))
    return found


def sent_to(service: Server) -> dict[str, str]:
    return service.requests[0][2]


def one(spans: list[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


def test_one_trace_goes_from_the_caller_to_what_a_plugin_calls(
    fleet: Fleet, collector: Collector, service: Server
) -> None:
    on = {"ORCH_OTLP_ENDPOINT": collector.url}
    worker = fleet.worker(**on, ORCH_HTTP_ALLOW="127.0.0.0/8")
    with web_of(fleet, **on) as web:
        run_id = start(web, service, traceparent=f"00-{TRACE}-{CALLER}-01", tracestate="vendor=value")
        fleet.completed(run_id)
        eventually(lambda: len(collector.of(TRACE)) >= 6)
        assert all(loads_sdk(pid) for pid in (web.process.pid, worker.popen.pid))

    spans = collector.of(TRACE)
    request, run = one(spans, "POST /api/v1/orchestrator/runs"), one(spans, "start run")
    assert (request.service, request.kind, request.parent_id) == ("orchestrator-web", "server", CALLER)
    assert request.attributes["http.response.status_code"] == 201
    assert request.attributes["orchestrator.tenant"] == "acme"
    assert (run.kind, run.parent_id, run.span_id) == ("producer", request.span_id, run_span_id(run_id))
    attempts = {span.attributes["orchestrator.step_id"]: span for span in spans if span.name == "attempt"}
    assert {(span.service, span.kind, span.parent_id) for span in attempts.values()} == {
        ("orchestrator-worker", "consumer", run.span_id)
    }
    call, command = one(spans, "plugin http"), one(spans, "plugin command")
    assert (call.kind, call.parent_id) == ("client", attempts["call"].span_id)
    assert (command.kind, command.parent_id) == ("internal", attempts["show"].span_id)
    assert {span.state for span in spans} == {"vendor=value"}
    assert set(collector.paths) == {"/v1/traces"}

    assert sent_to(service)["traceparent"] == f"00-{TRACE}-{call.span_id}-01"
    assert sent_to(service)["tracestate"] == "vendor=value"
    assert shown(fleet, run_id) == {
        "TRACEPARENT": f"00-{TRACE}-{command.span_id}-01",
        "TRACESTATE": "vendor=value",
    }
    with fleet.service_db.statement(ACME) as cur:
        assert {json.loads(event.line)["traceId"] for event in list_events(cur, ACME, run_id)} == {TRACE}


def test_a_run_that_no_message_tells_of_is_in_its_own_trace(fleet: Fleet, collector: Collector) -> None:
    """The API died after its commit: the sweeper sends messages that know ids only."""
    fleet.publish(dag("alone", [step("s0"), step("s1")], [(0, 1)]))
    run, _, _ = runs.start(
        fleet.db,
        ACME,
        dag_id=dag("alone", [step("s0")]).dag_id,
        version=None,
        inputs={},
        run_token=None,
        trace_id=TRACE,
        created_by="test",
    )
    fleet.worker(ORCH_OTLP_ENDPOINT=collector.url)
    fleet.sweeper()
    fleet.completed(run.run_id)
    eventually(lambda: len(collector.of(TRACE)) == 4)
    parents = {span.parent_id for span in collector.spans if span.name == "attempt"}
    assert parents == {run_span_id(run.run_id)}


def test_a_trace_that_is_not_sampled_is_handed_on_and_not_recorded(
    fleet: Fleet, collector: Collector, service: Server
) -> None:
    on = {"ORCH_OTLP_ENDPOINT": collector.url}
    fleet.worker(**on, ORCH_HTTP_ALLOW="127.0.0.0/8")
    with web_of(fleet, **on) as web:
        run_id = start(web, service, traceparent=f"00-{TRACE}-{CALLER}-00")
        fleet.completed(run_id)
        # What comes later is sent later: once this is there, nothing of the run was held back.
        second = start(web, service)
        fleet.completed(second)
        eventually(lambda: len(collector.of(fleet.run(second).trace_id)) == 6)
    assert collector.of(TRACE) == []
    assert sent_to(service)["traceparent"].startswith(f"00-{TRACE}-")
    assert sent_to(service)["traceparent"].endswith("-00")
    assert shown(fleet, run_id)["TRACEPARENT"].endswith("-00")


def test_without_a_collector_the_callers_own_span_stays_the_parent(fleet: Fleet, service: Server) -> None:
    worker = fleet.worker(ORCH_HTTP_ALLOW="127.0.0.0/8", ORCH_HANDOFF_MS="0")
    with web_of(fleet) as web:
        run_id = start(web, service, traceparent=f"00-{TRACE}-{CALLER}-00", tracestate="vendor=value")
        fleet.completed(run_id)
        assert not any(loads_sdk(pid) for pid in (web.process.pid, worker.popen.pid))
    expected = {"traceparent": f"00-{TRACE}-{CALLER}-00", "tracestate": "vendor=value"}
    assert {name: sent_to(service)[name] for name in expected} == expected
    assert shown(fleet, run_id) == {name.upper(): value for name, value in expected.items()}


def loads_sdk(pid: int) -> bool:
    """Tell whether a process, or its child that serves, has loaded what encodes spans."""
    pids = [pid, *descendants(pid)]
    return any("google/_upb" in Path(f"/proc/{each}/maps").read_text() for each in pids)


def test_without_a_collector_nothing_that_makes_or_sends_spans_is_loaded() -> None:
    # (redis-py loads the metrics of the SDK by itself.)
    program = (
        "import sys, orchestrator_api.wsgi, orchestrator_worker.__main__\n"
        "from shared.tracing import open_tracer\n"
        "assert open_tracer('', service='x') is None\n"
        "print([name for name in sys.modules if name in ('opentelemetry.sdk.trace', 'requests')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("fault", ["down", "hanging"])
def test_a_collector_that_is_down_or_hangs_holds_nothing_up(
    fleet: Fleet, service: Server, fault: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if fault == "down":
            listener.close()
        on = {"ORCH_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
        worker = fleet.worker(**on, ORCH_HTTP_ALLOW="127.0.0.0/8")
        with web_of(fleet, **on) as web:
            fleet.completed(start(web, service), within=10)
            with web.client() as client:
                assert all(client.get("/plugins", timeout=2).status_code == 200 for _ in range(50))
            web.process.send_signal(signal.SIGTERM)
            worker.send(signal.SIGTERM)
            assert web.process.wait(timeout=12) == 0
            assert worker.wait(within=12) == 0


def test_spans_go_to_the_collector_and_nowhere_else(fleet: Fleet, collector: Collector) -> None:
    """Not through a proxy of the environment, and not where the collector itself points to."""
    with running_collector() as canary:
        environ = {
            "ORCH_OTLP_ENDPOINT": collector.url + "/base/",
            "HTTP_PROXY": canary.url,
            "http_proxy": canary.url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": canary.url,
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": canary.url,
        }
        with web_of(fleet, **environ) as web, web.client() as client:
            client.get("/plugins")
            eventually(lambda: collector.spans)
            assert set(collector.paths) == {"/base/v1/traces"}
            collector.redirect_to = canary.url + "/v1/traces"
            client.get("/plugins")
            eventually(lambda: "Failed to export" in web.log.read_text())
        assert (canary.paths, canary.spans) == ([], [])
