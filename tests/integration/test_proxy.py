"""The proxy breaks connections as it is told to, and passes them otherwise."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.proxy import Mode, Proxy, proxied

SILENCE_SECONDS = 0.3


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while piece := self.request.recv(4096):
            self.request.sendall(piece)


@pytest.fixture(params=["tcp", "unix"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxy]:
    path = tmp_path / "echo.sock"
    server = (
        socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo)
        if request.param == "tcp"
        else socketserver.ThreadingUnixStreamServer(str(path), Echo)
    )
    server.daemon_threads = True
    with server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        with proxied(server.server_address if request.param == "tcp" else path) as made:  # type: ignore[arg-type]
            yield made
            made.set(Mode.RESET)
            eventually(lambda: made.connections == 0)
        server.shutdown()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def echoes(client: socket.socket, text: bytes = b"ping") -> bool:
    client.sendall(text)
    heard = b""
    while len(heard) < len(text) and (piece := client.recv(65_536)):
        heard += piece
    return heard == text


def is_silent(client: socket.socket) -> bool:
    client.settimeout(SILENCE_SECONDS)
    try:
        client.sendall(b"ping")
        client.recv(1)
    except TimeoutError:
        return True
    return False


def test_it_passes_what_it_is_given(proxy: Proxy) -> None:
    with connect(proxy) as first, connect(proxy) as second:
        assert echoes(first, bytes(300_000))
        assert echoes(second)
        assert proxy.connections == 2
    eventually(lambda: proxy.connections == 0)


def test_it_refuses_and_takes_again(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert echoes(client)
        proxy.set(Mode.REFUSE)
        assert client.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)

    proxy.set(Mode.PASS)

    with connect(proxy) as client:
        assert echoes(client)


def test_it_resets(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert echoes(client)
        proxy.set(Mode.RESET)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connect(proxy) as client, pytest.raises(ConnectionResetError):
        client.recv(1)


def test_what_falls_into_a_black_hole_never_comes_out(proxy: Proxy) -> None:
    with connect(proxy) as old:
        assert echoes(old)
        proxy.set(Mode.BLACKHOLE)
        with connect(proxy) as new:
            assert is_silent(old)
            assert is_silent(new)
            proxy.set(Mode.PASS)
            assert is_silent(old)
            assert is_silent(new)
    with connect(proxy) as client:
        assert echoes(client)


def test_half_open_is_dark_for_the_old_and_open_for_the_new(proxy: Proxy) -> None:
    with connect(proxy) as old:
        assert echoes(old)
        proxy.set(Mode.HALF_OPEN)
        with connect(proxy) as new:
            assert is_silent(old)
            assert echoes(new)


def test_it_delays_and_throttles(proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.delay_seconds = 0.1
        since = time.monotonic()
        assert echoes(client)
        assert time.monotonic() - since >= 0.2

        proxy.delay_seconds, proxy.bytes_per_second = 0.0, 10_000
        since = time.monotonic()
        assert echoes(client, bytes(2_000))
        assert time.monotonic() - since >= 0.4
