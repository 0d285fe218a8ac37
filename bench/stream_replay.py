"""A client takes a tenant's whole past and goes on with what is new: how fast, and in how much memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from typing import Any, Final, cast

import psycopg2

from bench.api_client import ApiClient
from bench.orchestrator import Orchestrator
from bench.processes import stopped_after, wait_until
from bench.results import Replayed
from bench.shapes import Shape
from bench.stream import ARRIVE_S, Tell
from bench.stream_chain import Wanted
from bench.stream_clients import WebProcess
from bench.subject import BenchError

PASTS: Final = (100_000, 1_000_000)
SHORT_PAST: Final = (2_000,)
TENANT: Final = "bench-past"
NEW = Shape(name="new", layers=(1,), what="one step that does nothing")
LONG: Final = "long"
LONG_RUNS: Final = 4
"""They hold the past; a step of each sleeps meanwhile."""
LONG_MS: Final = 3_600_000
AT_ONCE: Final = 20_000
NEW_PAUSE_S: Final = 0.1
_WITHIN_S: Final = 300.0
_WRITE: Final = """
SELECT orch.record(r, NULL, ARRAY(
    SELECT ROW(0, 'sleeps', 'running', n, 'default')::orch.step_change FROM generate_series(1, %s) AS n
)) FROM orch.runs AS r WHERE r.run_id = %s"""


def replay(ours: Orchestrator, pasts: tuple[int, ...], *, tell: Tell) -> list[Replayed]:
    """Measure pasts of growing length; BenchError if what came is not, line for line, what the ledger has."""
    client = ours.client_of(TENANT)
    client.post("/dags", NEW.definition())
    client.post(
        "/dags",
        {
            "dagId": LONG,
            "version": "1.0.0",
            "steps": [{"id": "sleeps", "uses": "sleep", "with": {"ms": LONG_MS}}],
            "edges": [],
        },
    )
    runs = [str(client.post("/runs", {"dagId": LONG})["runId"]) for _ in range(LONG_RUNS)]
    wait_until(lambda: all(_is_running(client, run) for run in runs), within_s=10, what="a step of each run")
    try:
        written, results = 0, []
        for past in pasts:
            _write_past(ours, runs, past - written)
            written = past
            results.append(_measure(ours, client, past, tell))
        return results
    finally:
        for run in runs:
            client.post(f"/runs/{run}:cancel", {})


def _write_past(ours: Orchestrator, runs: list[str], count: int) -> None:
    """Have the ledger's own function write events of the runs."""
    with closing(psycopg2.connect(ours.owner_url)) as owner, owner.cursor() as cur:
        owner.autocommit = True
        for number, begun in enumerate(range(0, count, AT_ONCE)):
            cur.execute(_WRITE, (min(AT_ONCE, count - begun), runs[number % len(runs)]))
        cur.execute("ANALYZE orch.events")


def _measure(ours: Orchestrator, client: ApiClient, past: int, tell: Tell) -> Replayed:
    wanted = Wanted(
        host=ours.address[0], port=ours.address[1], token=ours.token_for(TENANT), tenant=TENANT, lines=past
    )
    chain = subprocess.Popen(
        [sys.executable, "-m", "bench.stream_chain"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with stopped_after(chain, within_s=20), ThreadPoolExecutor(1) as thread:
        assert chain.stdin is not None
        before = most = WebProcess.now(ours).kilobytes
        chain.stdin.write(json.dumps(asdict(wanted)).encode() + b"\n")
        chain.stdin.flush()
        answer = thread.submit(_answer, chain)
        while not answer.done():
            client.post("/runs", {"dagId": NEW.name})
            for _ in range(4):
                most = max(most, WebProcess.now(ours).kilobytes)
                time.sleep(NEW_PAUSE_S / 4)
        seconds = float(answer.result()["reached"])
        client.post("/runs", {"dagId": NEW.name})
        wait_until(lambda: not _new_ones_run(client), within_s=_WITHIN_S, what="the end of the new runs")
        time.sleep(ARRIVE_S)
        chain.stdin.close()
        found = _answer(chain)
    if found["heads"] != _heads(client):
        raise BenchError("what was replayed is not what the ledger has")
    rate = past / seconds
    tell(f"stream replay    {past:,} events at {rate:,.0f} a second, memory +{(most - before) / 1024:.1f} MB")
    return Replayed(events=past, seconds=seconds, kilobytes_before=before, kilobytes_most=most)


def _answer(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise BenchError("the client of the stream ended; what it wrote above says why")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _is_running(client: ApiClient, run: str) -> bool:
    return client.get(f"/runs/{run}/steps/sleeps")["status"] == "running"


def _new_ones_run(client: ApiClient) -> bool:
    return bool(client.get("/runs", {"dagId": NEW.name, "status": "running", "page_size": "1"})["items"])


def _heads(client: ApiClient) -> dict[str, str]:
    """Read the head of each run's chain of hashes from the ledger."""
    heads: dict[str, str] = {}
    query = {"page_size": "500"}
    while True:
        page = client.get("/runs", query)
        heads |= {run["runId"]: run["ledgerHead"] for run in cast("list[dict[str, str]]", page["items"])}
        if "next_page_token" not in page:
            return heads
        query["page_token"] = str(page["next_page_token"])
