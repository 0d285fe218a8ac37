"""What no client should send, to every route that takes a body and every path: refused, soon and briefly."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from werkzeug.test import TestResponse

from orchestrator_api.routes import ROUTES, Route
from tests.integration.api.conftest import Api
from tests.integration.api.test_http import PRIVATE, code, name, path_of

POSTS = [route for route in ROUTES if route.method == "POST"]
MEBIBYTE = 1 << 20
MAX_ANSWER_BYTES = 16_384
MAX_CPU_S = 2.0
"""Far more than any refusal takes, so that a busy machine changes nothing; quadratic ones took minutes."""

DAG: dict[str, Any] = {
    "dagId": "torture",
    "version": "1.0.0",
    "steps": [
        {"id": "a", "uses": "noop", "with": {"note": "${{ inputs.n }}"}, "retry": {"maxAttempts": 3}},
        {"id": "b", "uses": "noop", "when": "steps.a.status == 'succeeded'", "timeoutMs": 1_000},
        {"id": "c", "uses": "noop", "runOn": "always", "pool": "gpu", "disabled": False},
    ],
    "edges": [{"from": "a", "to": "b"}, {"from": "b", "to": "c"}],
    "metadata": {"owner": "me", "inputsSchema": {"type": "object", "properties": {"n": {"minimum": 1}}}},
}


@pytest.fixture
def own_api(api: Api) -> Api:
    """The API on a database that a test may write to."""
    return api


def refused(response: TestResponse) -> tuple[int, str]:
    """Hold an answer to what holds for every refusal."""
    assert 400 <= response.status_code < 500, response.data
    assert len(response.data) <= MAX_ANSWER_BYTES
    return code(response)


@pytest.fixture(autouse=True)
def soon(request: pytest.FixtureRequest, quiet_api: Api) -> Iterator[None]:
    """Let no case take long, whatever the machine does besides; its server and its body are there before."""
    if "flood_body" in request.fixturenames:
        request.getfixturevalue("flood_body")
    began = time.process_time()
    yield
    assert time.process_time() - began < MAX_CPU_S


INVALID_JSON: dict[str, bytes] = {
    "no JSON": b"hello",
    "half an object": b'{"dagId": "a"',
    "a comma too many": b'{"dagId": "a",}',
    "single quotes": b"{'dagId': 'a'}",
    "a comment": b'{} // "nothing"',
    "two texts": b"{}{}",
    "only blanks": b" \n\t ",
    "nested 65 deep": b"[" * 65 + b"]" * 65,
    "nested 10,000 deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "nested 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "nested, never closed": b'{"a":[' * 1_000_000,
    "brackets in a text that never ends": b'"' + b"[" * 4 * MEBIBYTE,
    "quotes without end": b'"\\' * 4 * MEBIBYTE,
    "a key twice": b'{"dagId": "a", "dagId": "a"}',
    "a key twice, spelled differently": b'{"dagId": "a", "dag\\u0049d": "a"}',
    "a key twice, far down": b'{"inputs": {"a": [{"x": 1, "x": 2}]}}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": Infinity}',
    "-Infinity": b'{"a": [-Infinity]}',
    "1e400": b'{"a": 1e400}',
    "-1e400": b'{"a": -1e400}',
    "an integer of 10,000 digits": b'{"a": ' + b"9" * 10_000 + b"}",
    "an integer of 8 million digits": b'{"a": ' + b"9" * 8_000_000 + b"}",
    "a fraction of 10,000 digits, too large": b'{"a": ' + b"9" * 10_000 + b".5}",
    "2^53": b'{"a": 9007199254740992}',
    "-2^53": b'{"a": -9007199254740992}',
    "a leading zero": b'{"a": 01}',
    "a plus sign": b'{"a": +1}',
    "a hexadecimal number": b'{"a": 0x1}',
    "half a surrogate pair": b'{"a": "\\ud800"}',
    "the other half": b'{"a": "\\udfff"}',
    "a pair the wrong way round": b'{"a": "\\udc00\\ud800"}',
    "half a pair as a key": b'{"\\ud800": 1}',
    "half a pair as bytes": b'{"a": "\xed\xa0\x80"}',
    "NUL in a text": b'{"a": "\\u0000"}',
    "NUL as a key": b'{"\\u0000": 1}',
    "NUL as a byte": b'{"a": "\x00"}',
    "NUL between": b'{"a": 1}\x00',
    "a line feed in a text": b'{"a": "\n"}',
    "UTF-16": '{"dagId": "a"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"dagId": "a"}'.encode("utf-16-le"),
    "UTF-32": '{"dagId": "a"}'.encode("utf-32"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "Latin-1": '{"a": "é"}'.encode("latin-1"),
    "a long form of a slash": b'{"a": "\xc0\xaf"}',
    "compressed, and not told": gzip.compress(b"{}"),
}


@pytest.mark.parametrize("path", ["/dags", "/runs"])
@pytest.mark.parametrize("body", INVALID_JSON.values(), ids=INVALID_JSON.keys())
def test_a_body_of_one_reading_or_none(quiet_api: Api, path: str, body: bytes) -> None:
    response = quiet_api.call("POST", path, data=body, content_type="application/json")
    assert refused(response) == (400, "INVALID_JSON")
    message = response.get_json()["error"]["message"]
    assert message.isprintable()
    assert len(message) < 400


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"{", "line 1, column 2"),
        (b'{\n  "dagId": "a",\n}', "line 3, column 1"),
        (b'{"dagId": \n\n tru}', "line 3, column 2"),
        (b'{"a": "NaN",\n "b": NaN}', "line 2, column 7"),
        (b'{"a": 1,\n "b": [1, -1e999]}', "line 2, column 11"),
        (b'{"a": "9007199254740992",\n "b": 9007199254740992}', "line 2, column 7"),
        ('{"é": "1e400",\n"é2": "é", "x": 1e400}'.encode(), "line 2, column 17"),
        (b'{"a": "\xff"}', "byte 7"),
        (b'{"a": {"b": [1, "\\u0000"]}}', "a.b[1]"),
        (b'{"a": {"b": 1, "b": 2}}', '"b"'),
    ],
)
def test_what_is_no_json_is_told_where(quiet_api: Api, body: bytes, place: str) -> None:
    error = quiet_api.call("POST", "/dags", data=body, content_type="application/json").get_json()["error"]
    assert place in error["message"]


OTHER_TYPES = [
    "text/plain",
    "text/json",
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/vnd.api+json",
    "application/jsonp",
    "application/*",
    "application/json, text/plain",
    "application/json; charset=latin1",
    "application/json; charset=utf-16",
    "application/json; charset=utf-8; boundary=x",
    "application/json; version=1",
    "multipart/form-data; boundary=x",
    "application/x-www-form-urlencoded",
    "application/octet-stream",
    "json",
    "",
]


@pytest.mark.parametrize("content_type", OTHER_TYPES)
@pytest.mark.parametrize("route", POSTS, ids=name)
def test_a_body_of_another_type(quiet_api: Api, route: Route, content_type: str) -> None:
    response = quiet_api.call("POST", path_of(route), data=b"{}", content_type=content_type)
    assert refused(response) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "APPLICATION/JSON",
        "application/json;charset=utf-8",
        'application/json; charset="UTF-8"',
        " application/json ",
    ],
)
def test_the_one_type_in_other_spellings(quiet_api: Api, content_type: str) -> None:
    response = quiet_api.call("POST", "/dags", data=b"{}", content_type=content_type)
    assert refused(response) == (422, "VALIDATION_FAILED")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "x", "gzip, identity"])
def test_a_body_that_says_it_is_compressed(quiet_api: Api, encoding: str) -> None:
    for body in (gzip.compress(b"{}"), b"{}"):
        response = quiet_api.call(
            "POST",
            "/dags",
            data=body,
            content_type="application/json",
            headers={"Content-Encoding": encoding},
        )
        assert refused(response) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("body", [b"null", b"[]", b'"x"', b"1", b"true", b"-0", b"1.5"])
@pytest.mark.parametrize("route", POSTS, ids=name)
def test_a_body_that_is_no_object(quiet_api: Api, route: Route, body: bytes) -> None:
    response = quiet_api.call("POST", path_of(route), data=body, content_type="application/json")
    assert refused(response) == (422, "VALIDATION_FAILED")


@pytest.mark.parametrize("route", POSTS, ids=name)
def test_a_body_too_large(quiet_api: Api, route: Route) -> None:
    body = b'{"x": "' + b"x" * (8 * MEBIBYTE - 8) + b'"}'
    response = quiet_api.call("POST", path_of(route), data=body, content_type="application/json")
    assert refused(response) == (413, "BODY_TOO_LARGE")
    response = quiet_api.call(
        "POST", path_of(route), data=body[:7] + body[8:], content_type="application/json"
    )
    assert refused(response)[0] == 422


FLOODS: dict[str, Callable[[], object]] = {
    "unknown members": lambda: {f"x{n}": n for n in range(500_000)},
    "unknown members of a step": lambda: {**DAG, "steps": [{f"x{n}": n for n in range(500_000)}]},
    "unknown members of an edge": lambda: {**DAG, "edges": [{f"x{n}": n for n in range(500_000)}]},
    "unknown members of a retry": lambda: {
        **DAG,
        "steps": [{"id": "a", "uses": "noop", "retry": {f"x{n}": n for n in range(500_000)}}],
    },
    "members of the metadata": lambda: {
        **DAG,
        "version": 1,
        "metadata": {f"x{n}": n for n in range(500_000)},
    },
    "a name of megabytes": lambda: {**DAG, "x" * 8_000_000: 1},
    "an id of megabytes": lambda: {**DAG, "dagId": "x" * 8_000_000},
    "a plugin of megabytes": lambda: {**DAG, "steps": [{"id": "a", "uses": "x" * 8_000_000}]},
    "an expression of megabytes": lambda: {
        **DAG,
        "steps": [{"id": "a", "uses": "noop", "when": "1+" * 4_000_000}],
    },
    "holes without end": lambda: {
        **DAG,
        "steps": [{"id": "a", "uses": "noop", "with": {"note": "${{" * 2_000_000}}],
    },
    "steps that are numbers": lambda: {**DAG, "steps": [1] * 10_000},
    "steps with nothing right": lambda: {
        **DAG,
        "steps": [dict.fromkeys(("id", "uses", "with", "when", "retry", "pool", "x", "y"), 1)] * 10_000,
    },
    "steps that break every rule": lambda: {
        **DAG,
        "steps": [{"id": "-", "uses": "?", "pool": "?", "timeoutMs": 0, "runOn": "?", "when": "("}] * 10_000,
    },
    "steps too many": lambda: {**DAG, "steps": [{}] * 1_000_000},
    "edges that are numbers": lambda: {**DAG, "edges": [1] * 50_000},
    "edges to nowhere": lambda: {**DAG, "edges": [{"from": "x", "to": "y"}] * 50_000},
    "edges too many": lambda: {**DAG, "edges": [0] * 2_000_000},
    "signatures": lambda: {
        **DAG,
        "signature": {"payloadType": "x", "payload": "x", "signatures": [{}] * 1_000_000},
    },
    "one long cycle": lambda: {
        **DAG,
        "steps": [{"id": f"s{n}", "uses": "noop"} for n in range(10_000)],
        "edges": [{"from": f"s{n}", "to": f"s{(n + 1) % 10_000}"} for n in range(10_000)],
    },
}


@pytest.fixture
def flood_body(request: pytest.FixtureRequest) -> bytes:
    """Write a flood down: that is our own time, not the server's."""
    make: Callable[[], object] = request.param
    return json.dumps(make()).encode()


@pytest.mark.parametrize("flood_body", FLOODS.values(), ids=FLOODS.keys(), indirect=True)
def test_a_flood_of_mistakes(quiet_api: Api, flood_body: bytes) -> None:
    response = quiet_api.call("POST", "/dags", data=flood_body, content_type="application/json")
    assert refused(response)[0] in (413, 422)
    assert response.get_json()["error"].get("details") or response.status_code == 413


ODD_PATHS = [
    "/runs/%00",
    "/runs/a%00b",
    "/runs/%ff",
    "/runs/%ed%a0%80",
    "/runs/%2e%2e",
    "/runs/..",
    "/runs/../dags",
    "/runs/%2F",
    "/runs/a%2Fb",
    "/runs//steps",
    "/runs/%20",
    "/runs/%0d%0aX-Injected:%201",
    "/runs/%",
    "/runs/%zz",
    "/runs/" + "x" * 4_000,
    "/runs/%F0%9F%98%80",
    "/runs/a;b=c",
    "/dags/%00/%00",
    "/dags/a/%ff",
    "/dags/a/1.0.0%3Adisable",
    "/dags/a//1.0.0",
    "/artifacts/%00",
    "/artifacts/..%2f..%2fetc%2fpasswd",
    "/artifacts/" + "A" * 64,
    "/%00",
    "/%ff",
    "//",
    "/" + "a/" * 2_000,
]


@pytest.mark.parametrize("path", ODD_PATHS, ids=range(len(ODD_PATHS)))
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_an_odd_path(quiet_api: Api, path: str, method: str) -> None:
    response = quiet_api.call(method, path)
    assert 400 <= response.status_code < 500
    assert response.status_code in (400, 404, 405)
    assert "X-Injected" not in response.headers
    assert (response.status_code == 405) == ("Allow" in response.headers)
    if method != "HEAD":
        refused(response)
    else:
        assert response.data == b""


ODD_QUERIES = [
    "status=%00",
    "status=%ff",
    "status=%ed%a0%80",
    "status",
    "=",
    "&&&",
    "status=&status=",
    "page_size=%00",
    "page_size=%D9%A1",
    "page_size=1e1",
    "page_size=" + "9" * 4_000,
    "from=2026-01-01T00:00:00+02:00",
    "from=9999-12-31T23:59:59-14:00",
    "page_token=%00",
    "page_token=" + "A" * 4_000,
    "page_token=%ff.%ff",
    "&".join(f"x{n}=1" for n in range(1_000)),
    "%00=1",
    "%ff=1",
    "dagId=" + "x" * 4_000,
    "dagId=a%00b",
    "active[]=true",
]


@pytest.mark.parametrize("query", ODD_QUERIES, ids=range(len(ODD_QUERIES)))
@pytest.mark.parametrize("path", ["/runs", "/dags"])
def test_an_odd_query(quiet_api: Api, path: str, query: str) -> None:
    response = quiet_api.get(f"{path}?{query}")
    if query in ("&&&",):
        assert response.status_code == 200
    else:
        assert refused(response)[0] == 400


@pytest.mark.parametrize("route", [route for route in PRIVATE if not route.access.operator], ids=name)
def test_every_parameter_that_is_wrong_is_told_at_once(quiet_api: Api, route: Route) -> None:
    readable = sorted(route.query & {"page_size", "status", "active", "from", "to", "dagId"})
    response = quiet_api.call(
        route.method, path_of(route) + "?x=1&" + "&".join(f"{each}=%00" for each in readable)
    )
    assert refused(response) == (400, "INVALID_ARGUMENT")
    fields = [detail["field"] for detail in response.get_json()["error"]["details"]]
    assert fields == sorted([*readable, "x"])


ODD_HEADERS: list[dict[str, str]] = [
    {"Accept": "application/json;q=abc"},
    {"Accept": ",,,;;;"},
    {"Accept": "x" * 8_000},
    {"Accept": "*/*;q=0"},
    {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-00"},
    {"traceparent": "\xff" * 100},
    {"If-None-Match": '"' * 1_000},
    {"If-None-Match": "\xff"},
    {"Range": "bytes=" + "0-1," * 1_000},
    {"Range": "bytes=99999999999999999999-"},
    {"If-Modified-Since": "yesterday"},
    {"Idempotency-Key": "\xe9"},
    {"Content-Length": "0"},
    {"Content-Type": "application/json; charset=" + "x" * 8_000},
    {"Expect": "x"},
    {"Cookie": "=" * 4_000},
]


@pytest.mark.parametrize("headers", ODD_HEADERS, ids=range(len(ODD_HEADERS)))
@pytest.mark.parametrize("route", ROUTES, ids=name)
def test_an_odd_header(quiet_api: Api, route: Route, headers: dict[str, str]) -> None:
    response = quiet_api.call(route.method, path_of(route), headers=headers)
    if response.status_code >= 400 and response.status_code != 503:
        refused(response)


@pytest.mark.parametrize("size", [MEBIBYTE - 1, MEBIBYTE, MEBIBYTE + 1])
def test_inputs_are_measured_to_the_byte_in_their_canonical_form(quiet_api: Api, size: int) -> None:
    inputs = {"t": "x" * (size - len(b'{"t":""}'))}
    response = quiet_api.post("/runs", {"dagId": "none", "inputs": inputs})
    wanted = (413, "INPUTS_TOO_LARGE") if size > MEBIBYTE else (404, "DAG_NOT_FOUND")
    assert refused(response) == wanted


def test_a_get_with_a_body_is_a_get(quiet_api: Api) -> None:
    for body in (b"{", b"[" * 100_000, b"\x00"):
        assert (
            quiet_api.call("GET", "/plugins", data=body, content_type="application/json").status_code == 200
        )


ACCEPTED: dict[str, object] = {
    "zero": -0.0,
    "the largest integer": 2**53 - 1,
    "the smallest integer": -(2**53 - 1),
    "a large double": 1.7976931348623157e308,
    "a small double": 5e-324,
    "a double beyond the integers": 1e300,
    "a pair of surrogates": "\U0001f600",
    "the last character": "\U0010ffff",
    "a text that looks like an escape": "\\u0000 \\ud800",
    "a line separator": "\u2028",
    "a key of another script": {"\u05d0": 1, "\ufb00": 2, "\U00010000": 3},
    "60 levels": json.loads("[" * 59 + "]" * 59),
}


@pytest.mark.parametrize("value", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_is_odd_but_json_is_kept_as_it_is(own_api: Api, value: object) -> None:
    body = {**DAG, "metadata": {"value": value}}
    assert own_api.post("/dags", body).status_code == 201
    assert own_api.get("/dags/torture/1.0.0").get_json()["metadata"]["value"] == value
    assert own_api.post("/dags", body).status_code == 200
