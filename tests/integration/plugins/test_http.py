from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from orchestrator_worker.plugins import http
from shared.domain.models import Failed, Json, JsonObject, RetryPolicy, Stopped
from shared.domain.states import ErrorCode
from shared.plugins import StopReason
from tests.integration.plugins.server import Server, serving
from tests.support.attempts import RUN_ID, TRACE_ID, Bench, claim
from tests.support.eventually import eventually


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def local(bench: Bench) -> Bench:
    """A bench of an installation that lets steps reach the loopback interface."""
    bench.settings = replace(bench.settings, http_allow=("127.0.0.0/8", "localhost"))
    return bench


def retried(bench: Bench, params: JsonObject) -> Failed:
    """Fail with attempts left, so that the outcome shows whether they are used."""
    outcome = bench.run(claim("http", params, retry=RetryPolicy(max_attempts=2)))
    assert isinstance(outcome, Failed), outcome
    return outcome


def test_json_is_parsed_and_the_body_is_an_artifact(local: Bench, server: Server) -> None:
    outcome = local.succeed("http", {"url": server.url("/json")})
    body = b'{"a": [1, "\xc3\xbc"]}'
    assert outcome.outputs == {
        "status": 200,
        "contentType": "application/json",
        "json": {"a": [1, "ü"]},
        "bodyHash": sha256(body).hexdigest(),
    }
    [artifact] = outcome.artifacts
    assert (artifact.name, artifact.content_type, artifact.size_bytes) == (
        "body",
        "application/json",
        len(body),
    )
    assert local.read(artifact.sha256) == body
    assert local.work_folders() == []


def test_only_the_headers_that_are_asked_for_are_recorded(local: Bench, server: Server) -> None:
    params: JsonObject = {"url": server.url("/json"), "captureHeaders": ["X-Version", "etag", "X-Absent"]}
    assert local.succeed("http", params).outputs["headers"] == {"x-version": "7", "etag": '"e"'}


def test_equal_answers_have_equal_hashes(local: Bench, server: Server) -> None:
    runs = [local.succeed("http", {"url": server.url("/json")}) for _ in range(2)]
    assert runs[0].outputs_hash == runs[1].outputs_hash


def test_text_is_decoded_by_its_charset(local: Bench, server: Server) -> None:
    assert local.succeed("http", {"url": server.url("/text")}).outputs["text"] == "grüße"


@pytest.mark.parametrize("text", ["{", "[NaN]", '{"a":1,"a":2}', "12345678901234567890"])
def test_json_that_cannot_be_recorded_exactly_is_given_as_text(
    local: Bench, server: Server, text: str
) -> None:
    outputs = local.succeed("http", {"url": server.url(f"/raw/{text}")}).outputs
    assert "json" not in outputs
    assert isinstance(outputs["text"], str)


@pytest.mark.parametrize(("size", "inline"), [(65_536, True), (65_537, False), (3_000_000, False)])
def test_a_large_body_is_only_an_artifact(local: Bench, server: Server, size: int, inline: bool) -> None:
    outcome = local.succeed("http", {"url": server.url(f"/large/{size}")})
    assert ("text" in outcome.outputs) is inline
    assert local.read(outcome.outputs["bodyHash"]) == b"x" * size
    assert local.work_folders() == []


def test_the_request_is_the_one_described(local: Bench, server: Server) -> None:
    params: JsonObject = {
        "url": server.url("/status/200?q=1"),
        "method": "POST",
        "json": {"n": [1, "ü"]},
        "headers": {"Authorization": "Bearer t", "Accept": "application/json"},
    }
    local.succeed("http", params)
    [(method, path, headers, body)] = server.requests
    assert (method, path, body) == ("POST", "/status/200?q=1", '{"n":[1,"ü"]}'.encode())
    assert headers["content-type"] == "application/json"
    assert headers["authorization"] == "Bearer t"
    assert headers["accept"] == "application/json"
    assert headers["idempotency-key"] == f"{RUN_ID}/work"
    assert headers["traceparent"].startswith(f"00-{TRACE_ID}-")
    assert headers["host"] == f"127.0.0.1:{server.port}"


def test_a_plain_body_and_a_key_of_ones_own(local: Bench, server: Server) -> None:
    params: JsonObject = {
        "url": server.url("/status/201"),
        "method": "PUT",
        "body": "plain",
        "headers": {"Idempotency-Key": "mine"},
    }
    assert local.succeed("http", params).outputs["status"] == 201
    [(_, _, headers, body)] = server.requests
    assert (headers["idempotency-key"], body) == ("mine", b"plain")


def test_a_head_request_has_an_empty_body(local: Bench, server: Server) -> None:
    outcome = local.succeed("http", {"url": server.url("/json"), "method": "HEAD"})
    assert outcome.outputs["bodyHash"] == sha256(b"").hexdigest()
    assert "idempotency-key" not in server.requests[0][2]


@pytest.mark.parametrize(
    ("status", "worth_it"),
    [
        (400, False),
        (401, False),
        (404, False),
        (408, True),
        (429, True),
        (500, True),
        (503, True),
        (304, False),
    ],
)
def test_a_status_that_was_not_expected_fails_the_step(
    local: Bench, server: Server, status: int, worth_it: bool
) -> None:
    outcome = retried(local, {"url": server.url(f"/status/{status}?token=secret")})
    assert outcome.error_code is ErrorCode.HTTP_STATUS
    assert (outcome.retry_delay_ms is not None) is worth_it
    assert outcome.error_message.startswith(f"GET {server.url(f'/status/{status}')} answered {status}")
    assert "secret" not in outcome.error_message


@pytest.mark.parametrize("expected", [404, [200, 404]])
def test_a_status_may_be_expected(local: Bench, server: Server, expected: Json) -> None:
    outcome = local.succeed("http", {"url": server.url("/status/404"), "expectStatus": expected})
    assert outcome.outputs["status"] == 404
    assert outcome.outputs["text"] == "because of reasons"


def test_a_body_over_the_limit_fails_the_step(local: Bench, server: Server) -> None:
    outcome = retried(local, {"url": server.url("/large/1001"), "maxBytes": 1_000})
    assert (outcome.error_code, outcome.retry_delay_ms) == (ErrorCode.OUTPUTS_TOO_LARGE, None)
    local.succeed("http", {"url": server.url("/large/1000"), "maxBytes": 1_000})


def test_gzip_is_undone_and_the_limit_holds_for_what_comes_out(local: Bench, server: Server) -> None:
    assert local.succeed("http", {"url": server.url("/gzip")}).outputs["text"] == "packed"
    bomb = local.fail("http", {"url": server.url("/bomb"), "maxBytes": 1_000_000})
    assert bomb.error_code is ErrorCode.OUTPUTS_TOO_LARGE


@pytest.mark.parametrize(
    ("path", "worth_it", "told"),
    [
        ("/broken/short", True, "too early"),
        ("/broken/other", False, "no sound gzip"),
        ("/brotli", False, "not asked for"),
        ("/cut", True, "exchange"),
    ],
)
def test_a_broken_body_fails_the_step(
    local: Bench, server: Server, path: str, worth_it: bool, told: str
) -> None:
    outcome = retried(local, {"url": server.url(path)})
    assert outcome.error_code is ErrorCode.PLUGIN_ERROR
    assert (outcome.retry_delay_ms is not None) is worth_it
    assert told in outcome.error_message


def test_a_server_that_is_not_there_is_worth_a_retry(local: Bench) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        outcome = retried(local, {"url": f"http://127.0.0.1:{unused.getsockname()[1]}/"})
    assert outcome.error_code is ErrorCode.PLUGIN_ERROR
    assert outcome.retry_delay_ms is not None
    assert "refused" in outcome.error_message


def test_a_name_that_does_not_resolve_is_worth_a_retry(local: Bench) -> None:
    outcome = retried(local, {"url": "http://no-such-host.invalid/"})
    assert outcome.retry_delay_ms is not None
    assert "cannot resolve no-such-host.invalid" in outcome.error_message


def test_redirects_are_followed(local: Bench, server: Server) -> None:
    outcome = local.succeed("http", {"url": server.url("/to/302//json")})
    assert outcome.outputs["json"] == {"a": [1, "ü"]}
    assert b"redirected (302)" in local.read(outcome.logs_ref)


def test_redirects_are_followed_only_so_often(local: Bench, server: Server) -> None:
    outcome = local.fail("http", {"url": server.url("/loop")})
    assert outcome.error_code is ErrorCode.HTTP_STATUS
    assert len(server.requests) == 6


def test_a_redirect_may_be_the_answer(local: Bench, server: Server) -> None:
    url = server.url("/to/302//json")
    assert local.succeed("http", {"url": url, "expectStatus": 302}).outputs["status"] == 302
    outcome = local.fail("http", {"url": url, "followRedirects": False})
    assert "answered 302" in outcome.error_message


@pytest.mark.parametrize(
    ("status", "method"), [(301, "GET"), (302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")]
)
def test_a_redirect_changes_the_method_as_http_says(
    local: Bench, server: Server, status: int, method: str
) -> None:
    local.succeed("http", {"url": server.url(f"/to/{status}//json"), "method": "POST", "body": "b"})
    assert [request[0] for request in server.requests] == ["POST", method]
    assert server.requests[1][3] == (b"b" if method == "POST" else b"")


def test_another_host_sees_no_credentials(local: Bench, server: Server) -> None:
    headers = {"Authorization": "Bearer t", "Cookie": "c", "X-Api-Key": "k", "Accept": "text/x"}
    target = server.url("/json", host="localhost")
    local.succeed("http", {"url": server.url(f"/to/307/{target}"), "headers": headers})
    first, second = (request[2] for request in server.requests)
    assert {"authorization", "cookie", "x-api-key", "accept"} <= set(first)
    assert {"authorization", "cookie", "x-api-key"} & set(second) == set()
    assert second["accept"] == "text/x"


def test_the_same_host_keeps_them(local: Bench, server: Server) -> None:
    local.succeed("http", {"url": server.url("/to/307//json"), "headers": {"Authorization": "Bearer t"}})
    assert server.requests[1][2]["authorization"] == "Bearer t"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "0.0.0.0",
        "127.1",
        "0x7f.1",
        "2130706433",
        "0177.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
    ],
)
def test_no_form_of_an_inner_address_is_reached(bench: Bench, server: Server, host: str) -> None:
    outcome = retried(bench, {"url": server.url("/json", host=host)})
    assert (outcome.error_code, outcome.retry_delay_ms) == (ErrorCode.PLUGIN_ERROR, None)
    assert "not public" in outcome.error_message
    assert server.requests == []


def test_a_redirect_to_an_inner_address_is_not_followed(bench: Bench, server: Server) -> None:
    # Only the name is allowed: the address that it stands for is not, when it is named itself.
    bench.settings = replace(bench.settings, http_allow=("localhost",))
    target = server.url("/json")
    outcome = retried(bench, {"url": server.url(f"/to/302/{target}", host="localhost")})
    assert "127.0.0.1, which is not public" in outcome.error_message
    assert [request[1] for request in server.requests] == [f"/to/302/{target}"]


def test_a_name_is_refused_when_any_of_its_addresses_is_inside(
    bench: Bench, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        return [(2, 1, 6, "", ("1.1.1.1", 80)), (2, 1, 6, "", ("127.0.0.1", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    outcome = retried(bench, {"url": "http://rebind.example/"})
    assert "rebind.example has the address 127.0.0.1" in outcome.error_message


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://example.org/", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("//example.org/", "http:// or https://"),
        ("http:///path", "http:// or https://"),
        ("http://user:pw@example.org/", "user name or password"),
        ("http://exa\nmple.org/", "malformed"),
        ("http://example.org:99999/", "99999 is no port"),
        ("http://[::1/", "malformed"),
        ("http://127.0.0.1:0/", "0 is no port"),
    ],
)
def test_a_url_that_cannot_be_one_is_refused(local: Bench, url: str, told: str) -> None:
    outcome = retried(local, {"url": url})
    assert outcome.retry_delay_ms is None
    assert told in outcome.error_message
    assert "pw" not in outcome.error_message


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "Connection"])
def test_headers_that_shape_the_message_are_not_for_steps(local: Bench, server: Server, name: str) -> None:
    outcome = local.fail("http", {"url": server.url("/json"), "headers": {name: "1"}})
    assert "set by the plugin itself" in outcome.error_message
    assert server.requests == []


def test_proxies_of_the_environment_are_ignored(
    local: Bench, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    local.succeed("http", {"url": server.url("/json")})


@pytest.mark.parametrize("path", ["/drip", "/hang", "/endless"])
def test_the_time_out_holds_for_the_whole_exchange(local: Bench, server: Server, path: str) -> None:
    outcome = local.fail("http", {"url": server.url(path)}, timeout_ms=400)
    assert outcome.error_code is ErrorCode.TIMEOUT
    assert outcome.artifacts == ()


@pytest.mark.parametrize("path", ["/drip", "/hang", "/endless"])
def test_a_stop_ends_an_exchange_at_once(local: Bench, server: Server, path: str) -> None:
    running = local.begin(claim("http", {"url": server.url(path)}))
    eventually(server.hanging.is_set)
    running.stop.request(StopReason.CANCELLED)
    assert running.outcome(within=2) == Stopped()


@pytest.mark.parametrize("early", [True, False])
def test_a_stop_ends_a_connection_that_is_being_made(local: Bench, early: bool) -> None:
    # A full backlog: the kernel answers no further request to connect.
    with ExitStack() as stack:
        deaf = stack.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        port = deaf.getsockname()[1]
        running = local.begin(claim("http", {"url": f"http://127.0.0.1:{port}/"}))
        if not early:
            eventually(lambda: connections_in_the_making(port) > 3)
        running.stop.request(StopReason.CANCELLED)
        assert running.outcome(within=3) == Stopped()


def connections_in_the_making(port: int) -> int:
    """Count the connections to a port of 127.0.0.1 whose first packet was not answered (SYN_SENT)."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[2:4] == [f"0100007F:{port:04X}", "02"] for line in lines)


@pytest.fixture
def secure(server: Server, tmp_path: Path) -> Iterator[Path]:
    """Put the server behind TLS for the name ``localhost``; the certificate is in the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    today = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    private = tmp_path / "key.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, private)
    server.wrap(context)
    http._tls.cache_clear()
    yield path
    http._tls.cache_clear()


def test_a_certificate_of_nobody_known_is_no_case_for_a_retry(
    local: Bench, server: Server, secure: Path
) -> None:
    outcome = retried(local, {"url": f"https://localhost:{server.port}/json"})
    assert outcome.retry_delay_ms is None
    assert "certificate does not hold" in outcome.error_message


def test_a_certificate_is_held_against_the_name_and_not_the_address(
    local: Bench, server: Server, secure: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(secure))
    assert local.succeed("http", {"url": f"https://localhost:{server.port}/json"}).outputs["status"] == 200
    outcome = retried(local, {"url": f"https://127.0.0.1:{server.port}/json"})
    assert "certificate does not hold" in outcome.error_message


def test_a_time_out_holds_within_tls(
    local: Bench, server: Server, secure: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(secure))
    for path in ("/drip", "/hang"):
        outcome = local.fail("http", {"url": f"https://localhost:{server.port}{path}"}, timeout_ms=400)
        assert outcome.error_code is ErrorCode.TIMEOUT
