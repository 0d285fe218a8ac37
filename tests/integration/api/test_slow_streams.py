"""Streams whose clients are slow, or do not read at all: they hold up nobody, and lose nothing."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.support.eventually import eventually
from tests.support.history import write_history
from tests.support.rest import Rest
from tests.support.servers import Servers
from tests.support.tokens import Signer
from tests.support.web import BASE, Web, serving

pytestmark = pytest.mark.timed

HISTORY = 30_000
"""About 10 MB of lines, more than any buffer on the way may hold."""
FLOOD = 3_000
SLOW_S = 12
"""Longer than a client that reads nothing is given."""
STREAM = f"{BASE}/runs/stream"


@pytest.fixture(scope="module")
def database(servers: Servers) -> Iterator[str]:
    with servers.new_database() as name:
        yield name


@pytest.fixture(scope="module")
def web(
    tmp_path_factory: pytest.TempPathFactory, signer: Signer, servers: Servers, database: str
) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("web")
    with (
        servers.new_redis_url() as redis_url,
        serving(folder, signer, servers.url(database), redis_url, ORCH_STREAM_HEARTBEAT_MS="300") as running,
    ):
        yield running


@pytest.fixture(scope="module")
def rest(web: Web) -> Iterator[Rest]:
    with Rest(f"http://{web.address[0]}:{web.address[1]}", token=web.token, tenant="acme") as client:
        client.publish("plan", [{"id": "a", "uses": "noop"}])
        yield client


@pytest.fixture(scope="module")
def old_run(rest: Rest, servers: Servers, database: str) -> str:
    """A run with a long past."""
    run_id = rest.start("plan")
    write_history(servers.url(database, user="postgres"), run_id, HISTORY)
    return run_id


def headers(web: Web) -> dict[str, str]:
    return {"Authorization": f"Bearer {web.token}", "X-Stella-Tenant": "acme"}


def open_socket(web: Web, query: str = "", **options: Any) -> ClientConnection:
    url = f"ws://{web.address[0]}:{web.address[1]}{STREAM}{query}"
    opened: ClientConnection = connect(url, additional_headers=headers(web), legacy=True, **options)
    return opened


def small_socket(web: Web, *, receive_buffer: int = 65_536) -> socket.socket:
    """Connect with a small receive buffer, so that the kernel takes little for who does not read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect(web.address)
    return sock


def memory_kb(web: Web) -> int:
    """Give what all processes of the server have resident."""
    children = Path(f"/proc/{web.process.pid}/task/{web.process.pid}/children").read_text().split()
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in children]
    return sum(int(status.partition("VmRSS:")[2].split()[0]) for status in statuses)


def delays(web: Web, rest: Rest, ws: ClientConnection, count: int) -> list[float]:
    """Measure how long after its answer the event of a start arrives."""
    measured = []
    for _ in range(count):
        run_id = rest.start("plan")
        answered = time.monotonic()
        while json.loads(ws.recv(timeout=10))["runId"] != run_id:
            pass
        measured.append(time.monotonic() - answered)
        time.sleep(0.05)
    return sorted(measured)


def test_a_client_that_does_not_read_is_closed_and_resumes_and_nobody_else_waits(
    web: Web, rest: Rest, old_run: str, show: Callable[[str], None]
) -> None:
    with open_socket(web) as other:
        before, memory = delays(web, rest, other, 20), memory_kb(web)
        idle = open_socket(web, f"?after=0&runId={old_run}", sock=small_socket(web), max_queue=1)
        began = time.monotonic()
        eventually(lambda: any(line["code"] == 1013 for line in web.lines("stream_ended")), within=20)
        took, beside = time.monotonic() - began, delays(web, rest, other, 20)
        grown = memory_kb(web) - memory
    lines: list[str] = []
    with pytest.raises(ConnectionClosed) as closed:
        lines.extend(str(idle.recv(timeout=10)) for _ in range(HISTORY))
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013
    medians, slowest = (before[10] * 1_000, beside[10] * 1_000), beside[-1] * 1_000
    show(f"closed after {took:.1f} s with {len(lines)} lines under way; memory +{grown} kB")
    show(f"others' delay: median {medians[0]:.1f} -> {medians[1]:.1f} ms, slowest {slowest:.1f} ms")
    assert took < 15
    assert grown < 8_000
    assert beside[-1] < 0.5
    while len(lines) < HISTORY + 2:
        after = json.loads(lines[-1])["cursor"]
        with open_socket(web, f"?after={after}&runId={old_run}") as ws:
            lines += [str(ws.recv(timeout=10)) for _ in range(HISTORY + 2 - len(lines))]
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, HISTORY + 3))


def test_a_slow_client_gets_everything_at_its_own_pace(web: Web, rest: Rest, old_run: str) -> None:
    """It takes longer than a client that reads nothing would be given."""
    with httpx.Client() as client:
        request = client.stream(
            "GET",
            f"http://{web.address[0]}:{web.address[1]}{STREAM}?after=0&runId={old_run}",
            headers=headers(web),
            timeout=10,
        )
        with request as response:
            seqs: list[int] = []
            began = time.monotonic()
            for line in response.iter_lines():
                if line:
                    seqs.append(json.loads(line)["seq"])
                    if len(seqs) % 3_000 == 0:
                        time.sleep(0.8)
                if len(seqs) == HISTORY + 2:
                    break
    assert seqs == list(range(1, HISTORY + 3))
    assert time.monotonic() - began > 8


def closed_by_the_server(web: Web) -> int:
    """Count the streams that it ended itself; that a client has left may be noticed later."""
    return sum(line["code"] is not None for line in web.lines("stream_ended"))


def test_a_client_that_reads_ten_kilobytes_a_second_is_not_taken_for_one_that_does_not_read(
    web: Web, rest: Rest, old_run: str
) -> None:
    """With a buffer that shows: else TCP itself would tell for ten seconds that nothing is read."""
    closed = closed_by_the_server(web)
    with small_socket(web, receive_buffer=16_384) as sock:
        request = web.head("GET", f"/runs/stream?after=0&runId={old_run}")
        sock.sendall(request.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n")
        answer = b""
        for _ in range(SLOW_S * 10):
            answer += sock.recv(1_024)
            # The pace is what is tried here.
            time.sleep(0.1)
        assert closed_by_the_server(web) == closed
        while answer.count(b"\n") < HISTORY:
            answer += sock.recv(65_536)
    _, _, body = answer.partition(b"\r\n\r\n")
    seqs = [json.loads(line)["seq"] for line in body.split(b"\n")[:-1] if line]
    assert seqs == list(range(1, len(seqs) + 1))


READER = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], headers=dict(line.split(": ", 1) for line in sys.argv[2:]))
with urllib.request.urlopen(request, timeout=30) as response:
    print(response.headers["X-Stream-Cursor"], flush=True)
    for line in response:
        print(line.decode().strip(), flush=True)
"""


def test_a_client_that_is_frozen_for_a_while_has_missed_nothing(web: Web, rest: Rest) -> None:
    url = f"http://{web.address[0]}:{web.address[1]}{STREAM}"
    command = [sys.executable, "-c", READER, url, *(f"{name}: {text}" for name, text in headers(web).items())]
    with (
        open_socket(web) as other,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client,
    ):
        assert client.stdout is not None
        assert client.stdout.readline()
        delays(web, rest, other, 2)
        seen = _events_of(client, 4)
        client.send_signal(signal.SIGSTOP)
        assert delays(web, rest, other, 30)[-1] < 0.5
        client.send_signal(signal.SIGCONT)
        seen += _events_of(client, 60)
        client.terminate()
    assert len({(event["runId"], event["seq"]) for event in seen}) == 64
    assert len({event["runId"] for event in seen}) == 32


def _events_of(client: subprocess.Popen[str], count: int) -> list[dict[str, Any]]:
    assert client.stdout is not None
    found: list[dict[str, Any]] = []
    heartbeats = 0
    while len(found) < count:
        line = client.stdout.readline()
        assert line, "the client has ended"
        if line.strip():
            found.append(json.loads(line))
        else:
            heartbeats += 1
            assert heartbeats < 60, f"{count - len(found)} events do not come"
    return found


@pytest.mark.parametrize(("size", "code"), [(60_000, 1009), (1_000, 1008)])
def test_a_flood_from_a_client_ends_its_stream_and_is_not_kept(
    web: Web, rest: Rest, size: int, code: int, show: Callable[[str], None]
) -> None:
    ended, memory = len(web.lines("stream_ended")), memory_kb(web)
    # The mask is zero, so that the message is as it reads.
    message = b"\x81\xfe" + size.to_bytes(2, "big") + bytes(4) + b"x" * size
    sent = 0
    with open_socket(web) as ws:
        with suppress(OSError):
            for _ in range(FLOOD):
                ws.socket.sendall(message)
                sent += 1
        # The stream of a test before may end late.
        eventually(lambda: code in [line["code"] for line in web.lines("stream_ended")[ended:]], within=10)
    grown = memory_kb(web) - memory
    show(f"{sent} of {FLOOD} messages of {size} bytes were sent; memory +{grown} kB")
    assert grown < 10_000


def test_many_replay_the_past_at_once_in_little_memory(
    web: Web, rest: Rest, old_run: str, show: Callable[[str], None]
) -> None:
    memory, began = memory_kb(web), time.monotonic()
    peak = [memory]

    def replay(_number: int) -> int:
        count = 0
        url = f"http://{web.address[0]}:{web.address[1]}{STREAM}?after=0&runId={old_run}"
        with httpx.stream("GET", url, headers=headers(web), timeout=10) as response:
            for piece in response.iter_raw():
                count += piece.count(b"}")  # A byte cannot be split between two pieces.
                peak.append(max(peak[-1], memory_kb(web)))
                if count >= HISTORY + 2:
                    break
        return count

    with ThreadPoolExecutor(10) as threads:
        assert list(threads.map(replay, range(10))) == [HISTORY + 2] * 10
    grown = peak[-1] - memory
    show(f"10 replays of {HISTORY} events in {time.monotonic() - began:.1f} s, memory +{grown} kB")
    assert grown < 30_000


def test_a_broken_connection_frees_its_place(web: Web, rest: Rest) -> None:
    """By a reset, in the middle of a message."""
    for _ in range(20):
        sock = socket.create_connection(web.address)
        key = "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw=="
        sock.sendall(
            web.head(
                "GET",
                "/runs/stream?after=0",
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                key,
            )
            + b"\r\n"
        )
        sock.recv(1_000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        sock.close()
    ended = web.lines("stream_ended")
    eventually(lambda: len(web.lines("stream_ended")) >= len(ended))
    eventually(lambda: _open_now(web) == 0)


def _open_now(web: Web) -> float:
    page = httpx.get(
        f"http://{web.address[0]}:{web.address[1]}{BASE}/admin/metrics", headers=headers(web)
    ).text
    (line,) = (line for line in page.splitlines() if line.startswith("orchestrator_streams_open "))
    return float(line.split()[1])
