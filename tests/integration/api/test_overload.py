"""A web process with more to do than it can refuses in time, stays up, and serves again when that is over."""

from __future__ import annotations

import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from shared.embedded.process_tree import descendants
from tests.support.eventually import eventually
from tests.support.tokens import Signer
from tests.support.web import Web, serving

pytestmark = pytest.mark.timed

QUEUE_S = 1.0
SHORT_QUEUE_S = 0.2
FLOOD_S = 5.0
SLACK_S = 1.5
"""The main loop looks once a second when nothing else happens; the machine may be busy."""
CLIENTS = 400


@pytest.fixture
def web(tmp_path: Path, signer: Signer, database_url: str, redis_url: str) -> Iterator[Web]:
    with serving(tmp_path, signer, database_url, redis_url, ORCH_WEB_QUEUE_MS=f"{QUEUE_S * 1000:.0f}") as one:
        yield one


@pytest.fixture
def flooded(tmp_path: Path, signer: Signer, database_url: str, redis_url: str) -> Iterator[Web]:
    """A web process that has more to do, as soon as 400 ask at once, than it can do in its time."""
    queue = f"{SHORT_QUEUE_S * 1000:.0f}"
    with serving(tmp_path, signer, database_url, redis_url, ORCH_WEB_QUEUE_MS=queue) as one:
        yield one


@pytest.fixture
def hung(web: Web) -> Iterator[Web]:
    """A web process whose two threads wait for bodies that do not come."""
    more = ("Content-Type: application/json", "Content-Length: 100", "Idempotency-Key: k")
    head = web.head("POST", "/runs", *more)
    with ExitStack() as open_ones:
        for _ in range(2):
            connection = open_ones.enter_context(socket.create_connection(web.address))
            connection.sendall(head + b"\r\n")
        eventually(lambda: ask(web)[0].status_code == 503)
        yield web


def memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in status if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def ask(web: Web, path: str = "/plugins") -> tuple[httpx.Response, float]:
    begun = time.monotonic()
    with web.client() as client:
        return client.get(path, timeout=30), time.monotonic() - begun


def test_who_no_thread_comes_to_is_refused_in_time(hung: Web) -> None:
    response, took = ask(hung)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "UNAVAILABLE"
    assert response.json()["error"]["trace_id"] == response.headers["X-Trace-Id"]
    assert response.headers["Retry-After"] == "1"
    assert QUEUE_S <= took < QUEUE_S + SLACK_S
    line = hung.lines("request")[-1]
    told = line["status"], line["refused_by"], line["trace_id"]
    assert told == (503, "server", response.headers["X-Trace-Id"])


def test_a_body_on_its_way_does_not_take_the_refusal_with_it(hung: Web) -> None:
    with hung.client() as client:
        response = client.post(
            "/dags", content=b" " * 1_000_000, headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 503


def test_health_is_told_while_all_threads_hang(hung: Web) -> None:
    response, took = ask(hung, "/admin/health")
    # No worker is up here; all else is.
    assert response.json()["checks"] == {"postgres": "ok", "redis": "ok", "workers": "down"}
    assert took < QUEUE_S


def test_it_bends_under_a_flood_and_serves_afterwards(flooded: Web, show: Callable[[str], None]) -> None:
    (pid,) = eventually(lambda: descendants(flooded.process.pid))
    before = memory_mib(pid)
    stop = threading.Event()
    answers: Counter[int] = Counter()
    slowest = 0.0

    def flood(_: int) -> None:
        nonlocal slowest
        while not stop.is_set():
            request = flooded.head("GET", "/runs", "Connection: close") + b"\r\n"
            begun = time.monotonic()
            status = int(flooded.raw(request)[9:12])
            answers[status] += 1
            slowest = max(slowest, time.monotonic() - begun)

    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(flood, number) for number in range(CLIENTS)]
        stop.wait(FLOOD_S)
        stop.set()
    for client in clients:
        client.result()
    grown = memory_mib(pid) - before
    show(f"{CLIENTS} clients at once: {dict(answers)}, slowest {slowest:.2f} s, memory +{grown:.0f} MiB")
    assert set(answers) <= {200, 503}
    assert answers[200] > CLIENTS
    assert answers[503]
    assert slowest < SHORT_QUEUE_S + 2 * SLACK_S
    assert grown < 40

    def served() -> bool:
        response, took = ask(flooded, "/runs")
        return response.status_code == 200 and took < 0.5

    eventually(served, within=1)
    assert flooded.process.poll() is None


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def test_without_descriptors_for_more_connections_the_process_lives_and_makes_room(web: Web) -> None:
    (pid,) = eventually(lambda: descendants(web.process.pid))
    assert ask(web)[0].status_code == 200
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid) + 20, hard))
    with ExitStack() as idle:
        for _ in range(60):
            idle.enter_context(socket.create_connection(web.address))
        response, took = ask(web)
        assert response.status_code == 200
        assert took < 5
    assert list(descendants(web.process.pid)) == [pid], web.log.read_text()[-6000:]


def test_connections_on_which_nothing_happens_make_room_for_others(
    tmp_path: Path, signer: Signer, database_url: str, redis_url: str
) -> None:
    few = ("--worker-connections", "50")
    with serving(tmp_path, signer, database_url, redis_url, *few) as web, ExitStack() as idle:
        for _ in range(120):
            idle.enter_context(socket.create_connection(web.address))
        response, took = ask(web)
        assert response.status_code == 200
        assert took < 5


def test_all_who_ask_for_health_at_once_are_told(web: Web) -> None:
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: ask(web, "/admin/health")[0], range(64)))
    assert all("checks" in answer.json() for answer in answers)
