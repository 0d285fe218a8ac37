"""Clients that start short runs while a test breaks things, and what they were told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.support.eventually import eventually
from tests.support.rest import Document, Rest

CLIENTS = 6


@dataclass(slots=True)
class History:
    """What clients were told: the run of each token that was acknowledged, and every other answer."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    refused: list[httpx.Response] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """Tokens whose last request got no answer."""
    slowest: float = 0.0


def publish_short(rest: Rest) -> None:
    """Publish a DAG of four steps, one of which takes a moment."""
    names = ("a", "b", "c")
    steps: list[Document] = [{"id": name, "uses": "noop"} for name in names]
    rest.publish(
        "short", [*steps, {"id": "d", "uses": "sleep", "with": {"ms": 30}}], "a>b", "a>c", "b>d", "c>d"
    )


@contextmanager
def clients_starting_runs(rest: Rest) -> Iterator[History]:
    """Have clients start runs within the block, each start repeated until it is acknowledged."""
    history, stop = History(), threading.Event()

    def work(client: int) -> None:
        for number in range(10_000):
            token = f"{client}-{number}"
            while not start(rest, token, history):
                stop.wait(0.05)
            if stop.wait(0.02):
                return

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(work, client) for client in range(CLIENTS)]
        try:
            yield history
        finally:
            stop.set()
        for client in clients:
            client.result()


def start(rest: Rest, token: str, history: History) -> bool:
    begun = time.monotonic()
    try:
        response = rest.send("POST", "/runs", body={"dagId": "short", "runToken": token})
    except httpx.TransportError:
        history.unknown.append(token)
        return False
    history.slowest = max(history.slowest, time.monotonic() - begun)
    if response.is_success:
        history.acknowledged[token] = response.json()["runId"]
        return True
    history.refused.append(response)
    return False


def check_nothing_lost(rest: Rest, history: History) -> None:
    """Hold every acknowledged run to its end, each token to one run, each step to one success."""
    ended = {run["runId"]: run for run in rest.all_ended(within=90)}
    assert {run["status"] for run in ended.values()} == {"completed"}
    assert {run["runToken"]: run_id for run_id, run in ended.items()} == history.acknowledged


def check_only_unavailable(history: History) -> None:
    """Hold every refusal to 503, with the advice to come back."""
    for response in history.refused:
        assert response.status_code == httpx.codes.SERVICE_UNAVAILABLE, response.text
        assert response.json()["error"]["code"] == "UNAVAILABLE"
        assert int(response.headers["Retry-After"]) >= 1


def acknowledge_more(history: History, count: int) -> None:
    """Wait until so many more starts were acknowledged."""
    enough = len(history.acknowledged) + count
    eventually(lambda: len(history.acknowledged) >= enough, within=40)
