"""Clients of several tenants, each with a will of its own, drawn from the seed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random
from typing import Any

import httpx

from tests.chaos.history import Call, History, Start, now
from tests.support.rest import API
from tests.support.site import Site

TENANTS = ("north", "east", "south", "west")
WAIT_S = 8.0
"""How long a client waits for an answer; then it does not know."""
PAUSE_S = 0.12
AGAIN_S = 0.1
TRIES = 200
READS = ("/runs?page_size=20", "/runs?status=running&page_size=5", "/dags", "/admin/health", "/admin/limits")
CHOICES = (
    "start",
    "start",
    "start",
    "start-twice",
    "other-inputs",
    "cancel",
    "read",
    "read",
    "fire-and-forget",
)


class _Client:
    """One client of one tenant, as any HTTP client: it repeats what failed, with the same token and key."""

    def __init__(self, site: Site, tenant: str, history: History, random: Random, shapes: list[str]) -> None:
        self._tenant, self._history, self._random, self._shapes = tenant, history, random, shapes
        self._known: list[tuple[str, Start]] = []
        self._http = httpx.Client(
            base_url=site.stack.url + API,
            headers={"Authorization": f"Bearer {site.token(tenant)}", "X-Stella-Tenant": tenant},
            timeout=WAIT_S,
            trust_env=False,
        )

    def work(self, name: str, stop: threading.Event) -> None:
        """Do one thing after another until told to stop; finish what is begun."""
        with self._http, ThreadPoolExecutor(2) as pair:
            for number in range(100_000):
                if stop.wait(PAUSE_S):
                    return
                self._do(self._random.choice(CHOICES), f"{name}-{number}", pair, stop)

    def _do(self, what: str, token: str, pair: ThreadPoolExecutor, stop: threading.Event) -> None:
        shape = self._random.choice(self._shapes)
        n = self._random.randrange(100)
        if what == "read":
            self._call("GET", self._random.choice(READS))
        elif what == "cancel" and self._known:
            self._cancel(*self._random.choice(self._known[-8:]), token)
        elif what == "other-inputs" and self._known:
            self._start_with_other_inputs(token, shape, stop)
        elif what == "fire-and-forget":
            self._start(token, shape, n, stop, tries=1)
        elif what == "start-twice":
            for each in [pair.submit(self._start, token, shape, n, stop) for _ in range(2)]:
                each.result()
        else:
            self._start(token, shape, n, stop)

    def _start(self, token: str, shape: str, n: int, stop: threading.Event, *, tries: int = TRIES) -> None:
        noted = self._history.start(self._tenant, token, shape)
        body = {"dagId": shape, "runToken": token, "inputs": {"n": n}}
        for number in range(tries):
            # A new key with the same token, or the same key again: either way it must be the same run.
            response = self._call("POST", "/runs", body, key=f"{token}-{number // 2}")
            if response is not None and response.is_success:
                noted.acknowledged.add(response.json()["runId"])
                self._known.append((response.json()["runId"], noted))
                return
            if stop.is_set():
                return  # The last one stays unknown.
            stop.wait(AGAIN_S)

    def _start_with_other_inputs(self, token: str, shape: str, stop: threading.Event) -> None:
        self._start(token, shape, 1, stop)
        body = {"dagId": shape, "runToken": token, "inputs": {"n": 2}}
        response = self._call("POST", "/runs", body, key=f"{token}-other")
        first_is_there = self._history.start(self._tenant, token, shape).acknowledged
        if response is not None and response.is_success and first_is_there:
            self._history.object_to(f"{token} with other inputs was accepted: {response.text}")

    def _cancel(self, run_id: str, noted: Start, key: str) -> None:
        noted.asked_to_cancel = True
        response = self._call("POST", f"/runs/{run_id}:cancel", {"reason": "chaos"}, key=key)
        if response is not None:
            noted.cancelled |= response.is_success
            noted.too_late_to_cancel |= response.status_code == httpx.codes.CONFLICT and (
                response.json()["error"]["code"] == "RUN_ALREADY_FINISHED"
            )

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, key: str = ""
    ) -> httpx.Response | None:
        begun = now()
        headers = {"Idempotency-Key": key} if method == "POST" else {}
        what = f"{method} {path.partition('?')[0]}"
        try:
            response = self._http.request(method, path, json=body, headers=headers)
        except httpx.TransportError:
            self._history.note(Call(what, begun, now(), None))
            return None
        status = response.status_code
        self._history.note(Call(what, begun, now(), status, "Retry-After" in response.headers))
        if status in (400, 401, 403, 404, 405, 413, 415, 422, 429):
            self._history.object_to(f"{what} was refused: {status} {response.text}")
        if response.is_error and "Traceback" in response.text:
            self._history.object_to(f"{what} shows its internals: {response.text}")
        return response


@contextmanager
def clients(site: Site, history: History, *, seed: str, shapes: list[str]) -> Iterator[None]:
    """Have a client of each tenant work within the block."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(TENANTS)) as pool:
        working = [
            pool.submit(
                _Client(site, tenant, history, Random(f"{seed}/{tenant}"), shapes).work,
                f"{seed}-{tenant}",
                stop,
            )
            for tenant in TENANTS
        ]
        try:
            yield
        finally:
            stop.set()
        for each in working:
            each.result()
