"""The web process is killed below its streams: how soon all clients are there again, with all events."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from bench.api_client import ApiClient
from bench.orchestrator import Orchestrator
from bench.processes import wait_until
from bench.results import Storm, Storms
from bench.stream import ARRIVE_S, EVENTS_OF_A_RUN, TWO_STEPS, Tell
from bench.stream_clients import WebProcess, clients
from bench.subject import BenchError

STORMS: Final = Storms(clients=1_000, repeat=3)
SHORT_STORM: Final = Storms(clients=5, repeat=1)
PAUSE_S: Final = 0.25
"""Between two starts: 32 events a second."""
BEFORE_S: Final = 2.0
AGAIN_S: Final = 0.05
AGAIN_WITHIN_S: Final = 60.0


def storm(ours: Orchestrator, storms: Storms, *, tell: Tell) -> list[Storm]:
    """Kill the web process again and again; BenchError if a client does not come back, or missed an event."""
    ours.publish(TWO_STEPS)
    return [_strike(ours, storms.clients, tell) for _ in range(storms.repeat)]


def _strike(ours: Orchestrator, number: int, tell: Tell) -> Storm:
    stop = threading.Event()
    (looker,) = ours.more_clients(1)
    with ThreadPoolExecutor(1) as thread, clients(ours, active=number) as crowd:
        starting = thread.submit(_start_runs, ours, stop)
        try:
            time.sleep(BEFORE_S)
            old = WebProcess.now(ours).pid
            struck = time.time()
            # The process that serves, and the one that would start it again.
            os.kill(ours.process("web"), signal.SIGKILL)
            os.kill(old, signal.SIGKILL)
            wait_until(lambda: _answers(looker), within_s=AGAIN_WITHIN_S, what="the web process")
            answers = time.time()
            wait_until(lambda: crowd.heard_again() >= number, within_s=AGAIN_WITHIN_S, what="each client")
        finally:
            stop.set()
        started = starting.result()
        wait_until(lambda: _none_runs(looker), within_s=AGAIN_WITHIN_S, what="the end of all runs")
        time.sleep(ARRIVE_S)
        found = crowd.end()
    if found.lines != started * EVENTS_OF_A_RUN or len(found.heard_again) < number:
        raise BenchError(
            f"of {started * EVENTS_OF_A_RUN} events came {found.lines}, to {len(found.heard_again)} clients"
        )
    result = Storm(
        clients=number,
        answers_after=answers - struck,
        connected_after=max(found.connected_again) - struck,
        live_after=max(found.heard_again) - struck,
        refused=found.refused.get("503", 0),
        events=found.lines,
    )
    tell(f"stream storm     {number} clients are live again after {result.live_after:.1f} s")
    return result


def _start_runs(ours: Orchestrator, stop: threading.Event) -> int:
    """Start runs until told to stop, whatever becomes of the server; give their number."""
    (client,) = ours.more_clients(1)
    prefix = f"storm-{time.time_ns()}"
    for number in itertools.count():
        if stop.wait(PAUSE_S):
            return number
        while not _started(client, f"{prefix}-{number}"):
            if stop.wait(AGAIN_S):
                return number
    raise AssertionError("there is no end of numbers")


def _started(client: ApiClient, run_token: str) -> bool:
    """Start a run, or find it started by a request whose answer was lost; false while nobody answers."""
    try:
        client.post("/runs", {"dagId": TWO_STEPS.name, "runToken": run_token})
    except BenchError:
        return False
    return True


def _answers(client: ApiClient) -> bool:
    try:
        client.get("/runs", {"page_size": "1"})
    except BenchError:
        return False
    return True


def _none_runs(client: ApiClient) -> bool:
    return not client.get("/runs", {"dagId": TWO_STEPS.name, "status": "running", "page_size": "1"})["items"]
