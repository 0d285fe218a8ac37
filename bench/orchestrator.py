"""Our side: a stack as `orch up` starts it, and the clock around its REST API."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from bench.api_client import ApiClient
from bench.processes import stopped_after
from bench.shapes import Shape
from bench.subject import TIMEOUT_S, BenchError
from bench.usage import cpu_seconds
from shared.domain.models import Json, JsonObject
from shared.embedded.process_tree import children

TENANT = "bench"
SCOPES = ("orchestrator:read", "orchestrator:write", "orchestrator:admin")
SUBMITTERS = 4
"""Connections that post runs at the same time, where a shape is more than one run."""

FIRST_LOOK_SHARE = 0.9
PAUSE_S = 0.002
PAUSE_SHARE = 0.03
"""The client looks first after 90% of the shortest time that the shape has taken by its runs' own account,
then every 2 ms, or every 3% of the time that has passed, if that is longer. Each look costs the web process
and PostgreSQL a few milliseconds of the two cores that the run needs; one that comes late makes us slower,
never faster. When it looked is therefore no measure of how long a shape takes: the next would be late too."""

_ORCH = (sys.executable, "-m", "orchestrator_cli.main")
"""The command `orch`, of the same environment."""
_MINT_S = 30
_STOP_S = 60.0


class Orchestrator:
    """Starts runs and watches them over HTTP, as a client does that knows nothing else."""

    name = "Orchestrator"
    slow = False

    def __init__(
        self, make_client: Callable[[str, str], ApiClient], folder: Path, address: tuple[str, int]
    ) -> None:
        """``make_client`` takes a tenant and a token for it."""
        self._make_client = make_client
        self._token = _mint(folder, TENANT)
        self._folder = folder
        self.address = address
        self._clients = clients = self.more_clients(SUBMITTERS)
        self._client = clients[0]
        self._published: set[str] = set()
        self._shortest: dict[str, float] = {}
        self._threads = ThreadPoolExecutor(max_workers=len(clients))

    def measure(self, shape: Shape) -> float:
        self.publish(shape)
        begun = time.perf_counter()
        runs = self._start(shape)
        self._wait(shape, begun, lambda: self._has_ended(shape, runs))
        seconds = time.perf_counter() - begun
        ended = [self._client.get(f"/runs/{run['runId']}") for run in runs]
        for run in ended:
            _check(shape, run)
        lasted = max(at(run, "endedUtc") for run in ended) - min(at(run, "startedUtc") for run in ended)
        self._shortest[shape.name] = min(lasted, self._shortest.get(shape.name, lasted))
        return seconds

    def more_clients(self, number: int) -> list[ApiClient]:
        """Make clients of the same API, each with a connection of its own."""
        return [self._make_client(TENANT, self._token) for _ in range(number)]

    def client_of(self, tenant: str) -> ApiClient:
        """Make a client of another tenant."""
        return self._make_client(tenant, self.token_for(tenant))

    @property
    def owner_url(self) -> str:
        """Where the owner of the ledger connects to PostgreSQL."""
        return str(self._described()["environ"]["ORCH_MIGRATION_DATABASE_URL"])

    def token_for(self, *tenants: str) -> str:
        """Make a token that is good for these tenants."""
        return _mint(self._folder, *tenants)

    def process(self, name: str) -> int:
        """Give the pid of one of the stack's programs."""
        return self.programs()[name]

    def programs(self) -> dict[str, int]:
        """Give the pid of each of the stack's programs; PostgreSQL and the web process have more below it."""
        return {name: int(one["pid"]) for name, one in self._described()["processes"].items()}

    def cpu_seconds(self) -> dict[str, float]:
        """Tell the CPU seconds that each kind of program has used so far."""
        used: dict[str, float] = {}
        for name, pid in self.programs().items():
            kind = name.partition("-")[0]
            used[kind] = used.get(kind, 0.0) + cpu_seconds(pid)
        return used

    def processes(self) -> dict[str, int]:
        """Give the pid of each process that is a program of our own."""
        programs = self.programs()
        (serving,) = children(programs["web"])
        ours = {name: pid for name, pid in programs.items() if name not in ("postgres", "redis")}
        return {"web, serving": serving, **ours}

    def _described(self) -> dict[str, Any]:
        described: dict[str, Any] = json.loads((self._folder / "stack.json").read_text(encoding="utf-8"))
        return described

    def close(self) -> None:
        self._threads.shutdown()

    def publish(self, shape: Shape) -> None:
        """Publish the DAG of a shape, once."""
        if shape.name not in self._published:
            self._client.post("/dags", shape.definition())
            self._published.add(shape.name)

    def _start(self, shape: Shape) -> list[JsonObject]:
        body: JsonObject = {"dagId": shape.name}
        if shape.runs == 1:
            return [self._client.post("/runs", body)]

        def share(number: int) -> list[JsonObject]:
            mine = range(number, shape.runs, len(self._clients))
            return [self._clients[number].post("/runs", body) for _ in mine]

        shares = self._threads.map(share, range(len(self._clients)))
        return [run for runs in shares for run in runs]

    def _wait(self, shape: Shape, begun: float, has_ended: Callable[[], bool]) -> None:
        pause = FIRST_LOOK_SHARE * self._shortest.get(shape.name, 0.0)
        while True:
            time.sleep(max(0.0, begun + pause - time.perf_counter()))
            if has_ended():
                return
            passed = time.perf_counter() - begun
            if passed > TIMEOUT_S:
                raise BenchError(f"{self.name} did not end {shape.name} within {TIMEOUT_S:.0f} s")
            pause = passed + max(PAUSE_S, PAUSE_SHARE * passed)

    def _has_ended(self, shape: Shape, runs: Sequence[JsonObject]) -> bool:
        # One look for all of them, which costs the same however many steps they have: is any still running?
        first = min(str(run["startedUtc"]) for run in runs)
        query = {"dagId": shape.name, "status": "running", "from": first, "page_size": "1"}
        return not self._client.get("/runs", query)["items"]


def at(thing: Mapping[str, Json], name: str) -> float:
    """Read a time of a run or a step, in seconds since 1970."""
    return datetime.fromisoformat(str(thing[name])).timestamp()


def _check(shape: Shape, run: JsonObject) -> None:
    """Refuse a run that did not complete with every step: its time would say nothing."""
    steps = cast("Sequence[JsonObject]", run["steps"])
    statuses = {step["status"] for step in steps}
    if run["status"] != "completed" or statuses != {"succeeded"} or len(steps) != sum(shape.layers):
        raise BenchError(f"{shape.name}: run {run['runId']} is {run['status']}, its steps are {statuses}")


@contextmanager
def orchestrator(folder: Path, *, workers: int = 1) -> Iterator[Orchestrator]:
    """Run `orch up` on a new data folder, and lend its API with a token that `orch token mint` made."""
    data = ["--data-dir", str(folder)]
    up = subprocess.Popen(
        [*_ORCH, "up", *data, "--port", "0", "--workers", str(workers)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with stopped_after(up, within_s=_STOP_S), ExitStack() as stack:
        assert up.stdout is not None
        if not up.stdout.readline():
            raise BenchError("`orch up` ended; what it wrote above says why")
        url = urlsplit(json.loads((folder / "stack.json").read_text(encoding="utf-8"))["url"])
        address = (url.hostname or "", url.port or 0)
        ours = Orchestrator(
            lambda tenant, token: stack.enter_context(ApiClient(*address, token=token, tenant=tenant)),
            folder,
            address,
        )
        stack.callback(ours.close)
        yield ours


def _mint(folder: Path, *tenants: str) -> str:
    data = ["--data-dir", str(folder)]
    names = [word for tenant in tenants for word in ("--tenant", tenant)]
    scopes = [word for scope in SCOPES for word in ("--scope", scope)]
    minted = subprocess.run(
        [*_ORCH, "token", "mint", *data, *names, *scopes, "--ttl", "12h"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=_MINT_S,
    )
    return minted.stdout.strip()
