"""Every documented refusal once, over a real connection: status, code, envelope, headers."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from orchestrator_api.errors import MEANINGS
from tests.support.rest import API, Document, Rest
from tests.support.site import Site

NEVER_USED = "01a20146-60f9-78df-9ee5-650816d4c647"
MEBIBYTE = 1 << 20
ONE_STEP: list[Document] = [{"id": "only", "uses": "noop"}]
ELSEWHERE = {
    "UNAVAILABLE": "test_server_faults",
    "RATE_LIMITED": "integration/api/test_rate_limits",
    "IDEMPOTENCY_KEY_REUSED": "integration/api/test_idempotency",
    "IDEMPOTENCY_IN_PROGRESS": "integration/api/test_idempotency",
    "SIGNATURE_REQUIRED": "integration/api/test_signatures",
    "SIGNATURE_INVALID": "integration/api/test_signatures",
    "INTERNAL": "no caller can bring it about",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A request, and what it is told."""

    status: int
    code: str
    method: str = "GET"
    path: str = "/runs"
    body: object = None
    raw: bytes | None = None
    headers: dict[str, str | None] = field(default_factory=dict)
    """Changes to the headers; ``None`` leaves one out."""
    fields: Sequence[str] = ()
    """The fields that the details name."""


def dag(steps: Sequence[Document] = ONE_STEP, *edges: str, dag_id: str = "new", **more: object) -> Document:
    pairs = [edge.split(">") for edge in edges]
    return {
        "dagId": dag_id,
        "version": "1.0.0",
        "steps": list(steps),
        "edges": [{"from": source, "to": target} for source, target in pairs],
        **more,
    }


def posted(path: str, body: object, status: int, code: str, *fields: str) -> Refused:
    return Refused(method="POST", path=path, body=body, status=status, code=code, fields=fields)


REFUSED = {
    "a body that is no JSON": Refused(method="POST", path="/dags", raw=b"{", status=400, code="INVALID_JSON"),
    "a key given twice": Refused(
        method="POST", raw=b'{"dagId": "a", "dagId": "b"}', status=400, code="INVALID_JSON"
    ),
    "a body in UTF-16": Refused(
        method="POST", raw='{"dagId": "a"}'.encode("utf-16"), status=400, code="INVALID_JSON"
    ),
    "a page too large": Refused(
        path="/runs?page_size=501", status=400, code="INVALID_ARGUMENT", fields=["page_size"]
    ),
    "an unknown parameter": Refused(
        path="/runs?colour=red", status=400, code="INVALID_ARGUMENT", fields=["colour"]
    ),
    "a time that is none": Refused(
        path="/runs?from=yesterday", status=400, code="INVALID_ARGUMENT", fields=["from"]
    ),
    "an id that is none": Refused(path="/runs/7", status=400, code="INVALID_ARGUMENT", fields=["runId"]),
    "a hash that is none": Refused(path="/artifacts/7", status=400, code="INVALID_ARGUMENT", fields=["hash"]),
    "a tenant that is none": Refused(
        headers={"X-Stella-Tenant": "A B"}, status=400, code="INVALID_ARGUMENT", fields=["X-Stella-Tenant"]
    ),
    "an altered page token": Refused(
        path="/runs?page_token=WzFd.AAAA", status=400, code="INVALID_PAGE_TOKEN"
    ),
    "no idempotency key": Refused(
        method="POST", headers={"Idempotency-Key": None}, status=400, code="IDEMPOTENCY_KEY_REQUIRED"
    ),
    "no token": Refused(headers={"Authorization": None}, status=401, code="UNAUTHENTICATED"),
    "a token that is none": Refused(
        headers={"Authorization": "Bearer a.b.c"}, status=401, code="UNAUTHENTICATED"
    ),
    "no tenant": Refused(headers={"X-Stella-Tenant": None}, status=403, code="TENANT_REQUIRED"),
    "another tenant": Refused(headers={"X-Stella-Tenant": "other"}, status=403, code="TENANT_FORBIDDEN"),
    "all tenants": Refused(
        headers={"X-Stella-Tenant": "*"}, status=400, code="INVALID_ARGUMENT", fields=["X-Stella-Tenant"]
    ),
    "an unknown path": Refused(path="/nothing", status=404, code="NOT_FOUND"),
    "an unknown DAG": Refused(path="/dags/no/1.0.0", status=404, code="DAG_NOT_FOUND"),
    "an unknown version": Refused(path="/dags/known/9.0.0", status=404, code="DAG_NOT_FOUND"),
    "a run of an unknown DAG": posted("/runs", {"dagId": "no"}, 404, "DAG_NOT_FOUND"),
    "an unknown run": Refused(path=f"/runs/{NEVER_USED}", status=404, code="RUN_NOT_FOUND"),
    "the cancelling of an unknown run": posted(f"/runs/{NEVER_USED}:cancel", {}, 404, "RUN_NOT_FOUND"),
    "steps of an unknown run": Refused(path=f"/runs/{NEVER_USED}/steps", status=404, code="RUN_NOT_FOUND"),
    "an unknown step": Refused(path="/runs/{run}/steps/no", status=404, code="STEP_NOT_FOUND"),
    "an unknown artifact": Refused(path=f"/artifacts/{'0' * 64}", status=404, code="ARTIFACT_NOT_FOUND"),
    "a wrong method": Refused(method="DELETE", path="/dags", status=405, code="METHOD_NOT_ALLOWED"),
    "another type wanted": Refused(headers={"Accept": "text/html"}, status=406, code="NOT_ACCEPTABLE"),
    "another type sent": Refused(
        method="POST",
        raw=b"dagId=known",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        status=415,
        code="UNSUPPORTED_MEDIA_TYPE",
    ),
    "a version with another definition": posted(
        "/dags", dag([{"id": "other", "uses": "noop"}], dag_id="known"), 409, "DAG_VERSION_CONFLICT"
    ),
    "a run of a disabled DAG": posted("/runs", {"dagId": "off", "version": "1.0.0"}, 409, "DAG_DISABLED"),
    "a run token with other inputs": posted(
        "/runs", {"dagId": "known", "runToken": "used", "inputs": {"n": 2}}, 409, "RUN_TOKEN_CONFLICT"
    ),
    "the cancelling of a completed run": posted("/runs/{run}:cancel", {}, 409, "RUN_ALREADY_FINISHED"),
    "a body too large": Refused(
        method="POST", path="/dags", raw=b" " * (8 * MEBIBYTE + 1), status=413, code="BODY_TOO_LARGE"
    ),
    "inputs too large": posted(
        "/runs", {"dagId": "known", "inputs": {"text": "x" * MEBIBYTE}}, 413, "INPUTS_TOO_LARGE"
    ),
    "a field missing, another unknown": posted(
        "/runs", {"dag": "known"}, 422, "VALIDATION_FAILED", "dag", "dagId"
    ),
    "an attempt too many": posted(
        "/dags",
        dag([{"id": "only", "uses": "noop", "retry": {"maxAttempts": 101}}]),
        422,
        "VALIDATION_FAILED",
        "steps[0].retry.maxAttempts",
    ),
    "two steps of one name, an edge to none": posted(
        "/dags",
        dag([*ONE_STEP, *ONE_STEP], "only>none"),
        422,
        "VALIDATION_FAILED",
        "edges[0].to",
        "steps[1].id",
    ),
    "an expression that names no ancestor": posted(
        "/dags",
        dag([{"id": "a", "uses": "noop", "when": "steps.b.status == 'x'"}, {"id": "b", "uses": "noop"}]),
        422,
        "VALIDATION_FAILED",
        "steps[0].when",
    ),
    "parameters that break the schema": posted(
        "/dags",
        dag([{"id": "a", "uses": "sleep", "with": {"ms": -1}}]),
        422,
        "VALIDATION_FAILED",
        "steps[0].with.ms",
    ),
    "a cycle": posted(
        "/dags",
        dag([{"id": "a", "uses": "noop"}, {"id": "b", "uses": "noop"}], "a>b", "b>a"),
        422,
        "DAG_CYCLE",
        "edges",
    ),
    "an unknown plugin": posted(
        "/dags", dag([{"id": "a", "uses": "magic"}]), 422, "UNKNOWN_PLUGIN", "steps[0].uses"
    ),
    "inputs that break the schema": posted(
        "/runs", {"dagId": "known", "inputs": {"n": "one"}}, 422, "INPUTS_INVALID", "inputs.n"
    ),
}


@pytest.fixture(scope="module")
def rest(calm_site: Site) -> Iterator[Rest]:
    """A tenant with a DAG, a disabled one, and a completed run."""
    schema: Document = {"type": "object", "properties": {"n": {"type": "integer"}}}
    with calm_site.rest("refused") as client:
        client.post("/dags", dag(dag_id="known", metadata={"inputsSchema": schema}))
        client.post("/dags", dag(dag_id="off"))
        client.post("/dags/off/1.0.0:disable", {})
        client.ended(client.start("known", runToken="used", inputs={"n": 1}))
        yield client


@pytest.fixture(scope="module")
def run_id(rest: Rest) -> str:
    return str(rest.runs()[0]["runId"])


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_is_refused(case: Refused, calm_site: Site, rest: Rest, run_id: str) -> None:
    headers = {
        "Authorization": f"Bearer {calm_site.token(rest.tenant)}",
        "X-Stella-Tenant": rest.tenant,
        "Content-Type": "application/json",
        "Idempotency-Key": str(uuid4()),
        **case.headers,
    }
    content = json.dumps(case.body).encode() if case.body is not None else case.raw
    response = httpx.request(
        case.method,
        calm_site.stack.url + API + case.path.replace("{run}", run_id),
        content=content,
        headers={name: value for name, value in headers.items() if value is not None},
        trust_env=False,
    )
    error = check_envelope(response)
    assert (response.status_code, error["code"]) == (case.status, case.code)
    details = error.get("details", [])
    assert [place["field"] for place in details] == list(case.fields)
    assert (response.headers.get("WWW-Authenticate") == "Bearer") == (case.status == 401)
    assert ("Allow" in response.headers) == (case.status == 405)


def check_envelope(response: httpx.Response) -> Document:
    """Hold a refusal to the form that all have; give the error."""
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"
    body = response.json()
    assert set(body) == {"error"}
    error: Document = body["error"]
    assert error["trace_id"] == response.headers["X-Trace-Id"]
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        ("orchestrator:write", "GET", "/runs"),
        ("orchestrator:admin", "GET", "/artifacts/" + "0" * 64),
        ("orchestrator:admin", "POST", "/runs"),
        ("orchestrator:read", "POST", f"/runs/{NEVER_USED}:cancel"),
        ("orchestrator:write", "POST", "/dags"),
        ("orchestrator:write", "POST", "/dags/known/1.0.0:disable"),
    ],
)
def test_no_scope_implies_another(site: Site, scope: str, method: str, path: str) -> None:
    with site.rest("refused", scopes=(scope,)) as client:
        response = client.send(method, path)
        assert check_envelope(response)["code"] == "INSUFFICIENT_SCOPE"
        assert response.status_code == 403


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/9.9", 400),
        (b"GET /" + b"x" * 9_000 + b" HTTP/1.1", 414),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 9_000, 431),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked", 400),
        (b"BREW /api/v1/orchestrator/runs HTTP/1.1\r\nHost: x", 405),
        (b"GET http://elsewhere/api/v1/orchestrator/runs HTTP/1.1\r\nHost: x", 401),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)
def test_what_is_hardly_http_gets_the_envelope_too(site: Site, head: bytes, status: int) -> None:
    address = urlsplit(site.stack.url)
    with socket.create_connection((str(address.hostname), int(address.port or 80)), timeout=10) as connection:
        connection.sendall(head + b"\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    start, _, body = answer.partition(b"\r\n\r\n")
    assert int(start.split()[1]) == status, start
    assert set(json.loads(body)["error"]) == {"code", "message", "trace_id"}


def test_health_tells_strangers_nothing_but_whether_it_is_up(site: Site, rest: Rest) -> None:
    answer = httpx.get(f"{site.stack.url}{API}/admin/health", trust_env=False)
    assert answer.json() == {
        "status": "ok",
        "checks": {"postgres": "ok", "redis": "ok", "workers": "ok"},
    }
    with Rest(site.stack.url, token=site.token(), tenant="*") as operator:
        assert operator.get("/admin/health")["queues"] is not None
        assert operator.send("GET", "/runs").status_code == 400
    assert rest.get("/admin/health")["status"] == "ok"


def test_every_code_of_the_api_is_tried() -> None:
    documented = {meaning.code for meaning in MEANINGS.values()} | {"METHOD_NOT_ALLOWED"}
    tried = {case.code for case in REFUSED.values()} | {"INSUFFICIENT_SCOPE"}
    assert documented - set(ELSEWHERE) == tried
