"""The client of the stream goes on where it was, whatever the server does; here it is one that misbehaves."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest

from orchestrator_cli import event_stream
from orchestrator_cli.client import Client
from orchestrator_cli.errors import CommandError
from orchestrator_cli.event_stream import EventStream
from tests.support.scripted_server import END, HEAD, OK, Server, chunk, event, lines, refusal, serving


def follow(
    server: Server, *, after: str | None = None, told: list[str] | None = None, silent_s: float = 5.0
) -> Iterator[str]:
    heard: list[str] = [] if told is None else told
    with Client(server.url, token="x", tenant="acme") as client:
        yield from EventStream(client, {"runId": "r"}, after=after, silent_s=silent_s, tell=heard.append)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "_PAUSES_S", (0.01, 0.05))


@pytest.mark.parametrize(
    "cut",
    [
        lines(1, 2),
        lines(1, 2) + END,
        lines(1, 2) + b"ff\r\n" + event(3)[:10].encode(),
        lines(1) + lines(2) + chunk(event(3)[:12]),
        lines(1) + lines(2) + chunk(event(3)[:12]) + END,
        lines(1, 2) + chunk("\n") + b"nonsense",
    ],
)
def test_each_line_comes_once_wherever_the_connection_is_cut(cut: bytes) -> None:
    told: list[str] = []
    with serving(HEAD + cut, HEAD + lines(3)) as server:
        assert list(islice(follow(server, told=told), 3)) == [event(1), event(2), event(3)]
    assert server.asked == [{"runId": ["r"]}, {"runId": ["r"], "after": ["8.2"]}]
    assert len(told) == 2
    assert told[1] == "the stream goes on"


def test_before_the_first_line_it_goes_on_from_where_the_stream_began() -> None:
    with serving(HEAD, refusal(503, "UNAVAILABLE"), HEAD + lines(1)) as server:
        assert next(follow(server)) == event(1)
    assert [query.get("after") for query in server.asked] == [None, ["7.0"], ["7.0"]]


def test_a_place_to_begin_at_is_kept_until_a_line_has_come() -> None:
    with serving(HEAD + chunk("\n"), HEAD + lines(1)) as server:
        assert next(follow(server, after="0")) == event(1)
    assert [query["after"] for query in server.asked] == [["0"], ["0"]]


def test_heartbeats_are_no_lines() -> None:
    with serving(HEAD + chunk("\n") + lines(1) + chunk("\n") + chunk("\n") + lines(2)) as server:
        assert list(islice(follow(server), 2)) == [event(1), event(2)]


def test_a_server_that_falls_silent_is_left() -> None:
    told: list[str] = []
    with serving(None, HEAD + lines(1)) as server:
        assert next(follow(server, told=told, silent_s=0.2)) == event(1)
    assert "ReadTimeout" in told[0]


def test_it_waits_as_long_as_the_server_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("orchestrator_cli.event_stream.time.sleep", slept.append)
    limited = refusal(429, "RATE_LIMITED", "Retry-After: 3")
    with serving(limited, HEAD + lines(1)) as server:
        assert next(follow(server)) == event(1)
    # Those who were refused at once do not come back at once.
    assert 3.0 < slept[0] <= 3.05


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "INVALID_ARGUMENT"), (401, "UNAUTHENTICATED"), (403, "INSUFFICIENT_SCOPE"), (404, "NOT_FOUND")],
)
def test_what_trying_again_cannot_mend_ends_it(status: int, code: str) -> None:
    with serving(HEAD + lines(1), refusal(status, code)) as server:
        stream = follow(server)
        assert next(stream) == event(1)
        with pytest.raises(CommandError, match=f"{status} {code}: no"):
            next(stream)


def test_what_is_no_stream_ends_it() -> None:
    page = OK + b"Content-Type: text/html\r\n\r\n" + chunk("<html>") + END
    with (
        serving(page) as server,
        Client(server.url, token="x", tenant="acme") as client,
        pytest.raises(CommandError, match="no event stream"),
    ):
        next(iter(EventStream(client, {}, tell=pytest.fail)))


def test_a_server_that_ends_each_connection_at_once_is_asked_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("orchestrator_cli.event_stream.time.sleep", slept.append)
    monkeypatch.setattr("orchestrator_cli.event_stream.random.uniform", lambda _low, high: high)
    with serving(*[HEAD] * 4, HEAD + chunk("\n"), HEAD + lines(1)) as server:
        assert next(follow(server)) == event(1)
    assert slept == [0.01, 0.02, 0.04, 0.05, 0.01]


def test_a_start_is_made_again_with_its_key_and_only_until_patience_ends() -> None:
    close = "Connection: close"
    served = refusal(409, "IDEMPOTENCY_IN_PROGRESS", close, "Retry-After: 0")
    with serving(b"", served, refusal(503, "UNAVAILABLE", close)) as server:
        told: list[str] = []
        with (
            Client(server.url, token="x", tenant="acme", patience_s=0.8, tell=told.append) as client,
            pytest.raises(CommandError, match="503 UNAVAILABLE"),
        ):
            client.start_run("plan", {})
    assert len(told) == 1
    assert len(server.keys) == 3
    assert len(set(server.keys)) == 1


def test_a_start_that_is_refused_is_not_made_again() -> None:
    with (
        serving(refusal(409, "RUN_TOKEN_CONFLICT")) as server,
        Client(server.url, token="x", tenant="acme", patience_s=5.0) as client,
        pytest.raises(CommandError, match="409 RUN_TOKEN_CONFLICT"),
    ):
        client.start_run("plan", {})


def test_an_answer_that_is_not_the_api_s_is_an_error() -> None:
    with (
        serving(OK + b"\r\n" + chunk("<html>") + END) as server,
        Client(server.url, token="x", tenant="acme", patience_s=5.0) as client,
        pytest.raises(CommandError, match="not this API's"),
    ):
        client.start_run("plan", {})
