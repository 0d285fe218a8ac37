"""Clients that take their time, on real sockets, against two threads with half a second of patience."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.support.eventually import eventually
from tests.support.servers import Servers
from tests.support.tokens import Signer
from tests.support.web import BASE, Web, serving


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, signer: Signer, servers: Servers) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("hasty")
    hasty = ("--worker-class", "tests.support.hasty.Worker")
    with (
        servers.new_database() as name,
        servers.new_redis_url() as redis_url,
        serving(folder, signer, servers.url(name), redis_url, *hasty) as running,
    ):
        yield running


@contextmanager
def connected(web: Web) -> Iterator[socket.socket]:
    with socket.create_connection(web.address, timeout=10) as connection:
        yield connection


@contextmanager
def trickling(connection: socket.socket, data: bytes, *, piece: int = 1) -> Iterator[None]:
    """Send a piece of ``data`` every 50 ms while the block runs."""
    done = threading.Event()

    def send() -> None:
        with suppress(OSError):
            for start in range(0, len(data), piece):
                connection.sendall(data[start : start + piece])
                if done.wait(0.05):
                    return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def answer_on(connection: socket.socket) -> bytes:
    """Read until the server closes; a reset counts as that."""
    answer = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            answer += piece
    return answer


def error_in(answer: bytes) -> tuple[int, str, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    return int(head.split()[1]), error["code"], error["message"]


def post(web: Web, *headers: str) -> bytes:
    return (
        web.head("POST", "/runs", "Idempotency-Key: k", "Content-Type: application/json", *headers) + b"\r\n"
    )


def test_a_head_that_trickles_in_is_refused(web: Web) -> None:
    with connected(web) as client, trickling(client, web.head() + b"\r\n"):
        assert error_in(answer_on(client)) == (400, "INVALID_ARGUMENT", "the request did not arrive in time")


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_body_that_trickles_in_is_refused_and_its_connection_closed(web: Web, framing: str) -> None:
    body = b" " * 1_000 if "Length" in framing else b"1\r\n \r\n" * 200
    with connected(web) as client:
        client.sendall(post(web, framing))
        with trickling(client, body):
            answer = answer_on(client)
    assert error_in(answer) == (400, "INVALID_JSON", "the body did not arrive in time")
    assert b"Connection: close" in answer


def test_a_slow_but_steady_body_is_read(web: Web) -> None:
    """Takes twice as long as a body may that stands still."""
    body = b'{"dagId": "absent", "inputs": {"x": "' + b"x" * 100_000 + b'"}}'
    with connected(web) as client:
        client.sendall(post(web, f"Content-Length: {len(body)}", "Connection: close"))
        with trickling(client, body, piece=5_000):
            assert error_in(answer_on(client))[:2] == (404, "DAG_NOT_FOUND")


def test_a_body_that_ends_early_is_not_taken_for_a_whole_one(web: Web) -> None:
    with connected(web) as client:
        client.sendall(post(web, "Content-Length: 50") + b'{"dagId": "absent"}')
        client.shutdown(socket.SHUT_WR)
        assert error_in(answer_on(client)) == (400, "INVALID_JSON", "the body ended before it was whole")


def test_clients_without_a_whole_head_hold_no_thread(web: Web) -> None:
    """Twenty of them against two threads: another client is served while they wait."""
    with ExitStack() as stack:
        slow = [stack.enter_context(connected(web)) for _ in range(20)]
        for number, client in enumerate(slow):
            client.sendall(web.head()[:number])
        with web.client() as other:
            assert other.get("/plugins", timeout=0.4).status_code == 200
        answers = [answer_on(client) for client in slow]
    assert answers[0] == b"", "who has sent nothing has asked for nothing"
    assert {error_in(answer)[0] for answer in answers[1:]} == {400}


def test_a_beginning_sent_behind_a_request_holds_no_thread(web: Web) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            client = stack.enter_context(connected(web))
            client.sendall(web.head() + b"\r\n" + web.head()[:30])
            assert client.recv(12) == b"HTTP/1.1 200"
        with web.client() as other:
            assert other.get("/plugins", timeout=0.4).status_code == 200


def test_the_rest_of_a_request_sent_behind_another_is_served(web: Web) -> None:
    with connected(web) as client:
        second = web.head("GET", "/plugins", "Connection: close") + b"\r\n"
        client.sendall(web.head() + b"\r\n" + second[:40])
        assert client.recv(12) == b"HTTP/1.1 200"
        client.sendall(second[40:])
        assert answer_on(client).count(b"HTTP/1.1 200") == 1


def test_a_refused_client_that_does_not_hang_up_stops_nobody(web: Web) -> None:
    with ExitStack() as stack:
        for _ in range(6):
            client = stack.enter_context(connected(web))
            client.sendall(b"nonsense\r\n\r\n")
        with web.client() as other:
            assert other.get("/plugins", timeout=1).status_code == 200


def test_a_client_that_does_not_read_loses_its_connection(web: Web) -> None:
    """Answers that nobody takes fill the buffers of both sides; then the thread must be given back."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(web.address)
        client.sendall((web.head() + b"\r\n") * 100)
        eventually(lambda: any(line.get("aborted") for line in web.lines("request")), within=10)
    with web.client() as other:
        assert other.get("/plugins", timeout=1).status_code == 200


def test_a_body_that_nobody_reads_is_not_waited_for(web: Web) -> None:
    """A refusal before the body, to a client that goes on sending: the answer arrives all the same."""
    unauthenticated = f"POST {BASE}/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n".encode()
    with connected(web) as client:
        client.sendall(unauthenticated)
        with suppress(OSError):
            client.sendall(os.urandom(4_000_000))
        assert answer_on(client).startswith(b"HTTP/1.1 401 ")
