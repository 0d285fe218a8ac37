"""Two releases at work on one ledger and one Redis, as during a rolling upgrade."""

from __future__ import annotations

import subprocess
import tarfile
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg2
import pytest

from shared.domain.models import RunId
from tests.integration.worker.fleet import ROOT, chain, new_fleet
from tests.support.invariants import check_invariants
from tests.support.rest import Document
from tests.support.tokens import ec_signer
from tests.support.web import Web, serving

PREVIOUS = "ae459d757487ae5a51bb31364b3c5d6144d33b27"
"""The commit of the release before this one."""
RUNS = 12
STEPS: list[Document] = [
    {"id": "first", "uses": "noop"},
    {"id": "flaky", "uses": "command", "with": {"argv": ["/bin/sh", "-c", '[ "$ORCH_ATTEMPT" -gt 1 ]']}}
    | {"retry": {"maxAttempts": 3, "initialDelayMs": 50}},
    {"id": "asked", "uses": "noop", "when": "steps.first.status == 'succeeded'"},
    {"id": "not-asked", "uses": "noop", "when": "steps.first.status == 'failed'"},
    *({"id": f"slow-{number}", "uses": "sleep", "with": {"ms": 20}} for number in range(6)),
    {"id": "last", "uses": "noop"},
]
BETWEEN = [step["id"] for step in STEPS[1:-1]]
EDGES = [
    {"from": source, "to": target} for step in BETWEEN for source, target in (("first", step), (step, "last"))
]


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the release before, as it was committed."""
    asked = subprocess.run(
        ["git", "-C", str(ROOT), "archive", PREVIOUS], capture_output=True, check=False, timeout=60
    )
    if asked.returncode:
        pytest.skip(f"this clone does not have the commit {PREVIOUS}: {asked.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=BytesIO(asked.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def send(web: Web, path: str, body: Document) -> Any:
    with web.client() as client:
        answer: httpx.Response = client.post(path, json=body, headers={"Idempotency-Key": str(uuid4())})
    assert answer.is_success, answer.text
    return answer.json()


def test_two_releases_work_on_the_same_runs(
    previous: Path, tmp_path: Path, database_url: str, owner_url: str, redis_url: str
) -> None:
    signer = ec_signer()
    for name in ("old", "new", "fleet"):
        (tmp_path / name).mkdir()
    with (
        new_fleet(tmp_path / "fleet", database_url=database_url, redis_url=redis_url) as fleet,
        serving(tmp_path / "old", signer, database_url, redis_url, code=str(previous)) as old,
        serving(tmp_path / "new", signer, database_url, redis_url) as new,
    ):
        fleet.sweeper()
        workers = [replace(fleet, code=previous).worker(), fleet.worker()]
        for web, dag_id in ((old, "of-the-old"), (new, "of-the-new")):
            send(web, "/dags", {"dagId": dag_id, "version": "1.0.0", "steps": STEPS, "edges": EDGES})
        wide = [{"id": f"w{number}", "uses": "sleep", "with": {"ms": 500}} for number in range(8)]
        send(new, "/dags", {"dagId": "wide", "version": "1.0.0", "steps": wide})
        runs = [
            RunId(send(web, "/runs", {"dagId": dag_id})["runId"])
            for _ in range(RUNS // 4)
            for web in (old, new)
            for dag_id in ("of-the-old", "of-the-new")
        ]
        # Those are short: one worker may do them all before the other gets a message.
        both = RunId(send(new, "/runs", {"dagId": "wide"})["runId"])
        cancelled = RunId(send(old, "/runs", {"dagId": "of-the-new"})["runId"])
        send(new, f"/runs/{cancelled}:cancel", {})
        for run_id in (*runs, both):
            fleet.completed(run_id, within=60)
        fleet.ended(cancelled, within=20)
        with closing(psycopg2.connect(owner_url)) as connection, connection.cursor() as cur:
            cur.execute("SELECT DISTINCT worker_id FROM orch.attempts")
            pids = {int(worker_id.rsplit("-", 2)[1]) for (worker_id,) in cur.fetchall()}
            assert pids == {worker.popen.pid for worker in workers}
            check_invariants(cur)


def test_the_sweeper_of_the_release_before_recovers_what_this_one_began(
    previous: Path, tmp_path: Path, database_url: str, owner_url: str, redis_url: str
) -> None:
    with new_fleet(tmp_path, database_url=database_url, redis_url=redis_url) as fleet:
        replace(fleet, code=previous).sweeper()
        worker = fleet.worker()
        lost = fleet.start(fleet.publish(chain(3)), ring=False)
        fleet.completed(lost)
        assert worker.alive
        with closing(psycopg2.connect(owner_url)) as connection, connection.cursor() as cur:
            check_invariants(cur)
