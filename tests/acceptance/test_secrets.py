"""Secrets that callers send: they stay where the caller put them, and turn up nowhere else."""

from __future__ import annotations

import base64
import binascii
import json
import re
import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import cast

import httpx
import psycopg2
import pytest
import redis

from tests.support.eventually import eventually
from tests.support.rest import API, Document, Rest
from tests.support.site import Site
from tests.support.stack import clean_environ

CANARY = "kanarie7f3a91c2"
"""Part of each secret; what comes before it tells them apart."""
WHERE_IT_BELONGS = {"dag_versions", "dag_steps", "runs", "run_inputs", "idempotency_keys"}
"""Tables of definitions, of inputs and run tokens, and of idempotency keys: what callers asked to be kept."""

SECRET_STEPS: list[Document] = [
    {
        "id": "env",
        "uses": "command",
        "with": {"argv": ["sh", "-c", "exit 3"], "env": {"API_KEY": f"env-{CANARY}"}},
    },
    {"id": "argument", "uses": "command", "with": {"argv": ["false", f"argument-{CANARY}"]}},
    {
        "id": "request",
        "uses": "http",
        "with": {
            "url": f"http://127.0.0.1:9/x?key=query-{CANARY}#fragment-{CANARY}",
            "method": "POST",
            "headers": {"Authorization": f"Bearer header-{CANARY}", "X-Api-Key": f"other-{CANARY}"},
            "json": {"password": f"body-{CANARY}"},
        },
    },
    {"id": "userinfo", "uses": "http", "with": {"url": f"${{{{ 'http://me:userinfo-{CANARY}@host/' }}}}"}},
    {"id": "late", "uses": "sleep", "with": {"ms": f"${{{{ 'late-{CANARY}' }}}}"}},
    {"id": "input", "uses": "sleep", "with": {"ms": "${{ size(inputs.key) }}"}},
]

READS: dict[bytes, Callable[[redis.Redis, bytes], object]] = {
    b"none": lambda queue, key: None,  # It was gone before it could be read.
    b"string": lambda queue, key: queue.get(key),
    b"list": lambda queue, key: queue.lrange(key, 0, -1),
    b"set": lambda queue, key: queue.smembers(key),
    b"hash": lambda queue, key: queue.hgetall(key),
    b"zset": lambda queue, key: queue.zrange(key, 0, -1),
    b"stream": lambda queue, key: queue.xrange(key),
}


def test_no_secret_of_a_caller_turns_up_elsewhere(site: Site) -> None:
    with site.rest() as rest:
        rest.publish("secretive", SECRET_STEPS, metadata={"description": f"metadata-{CANARY}"})
        run_id = rest.start("secretive", inputs={"key": f"input-{CANARY}"}, runToken=f"token-{CANARY}")
        queue = site.redis()
        seen: set[bytes] = set()

        def looked_until_it_ended() -> bool:
            seen.update(held_by(queue))
            return bool(rest.run(run_id)["status"] != "running")

        eventually(looked_until_it_ended)
        refusals = refused(site, rest)
        events = [event for run in exported(rest) for event in run["events"]]
        told = {
            "a refusal": "\n".join(refusals),
            "an event": json.dumps(events),
            "the metrics": rest.send("GET", "/admin/metrics").text,
            "the health": rest.send("GET", "/admin/health").text,
            "the audit": rest.send("GET", "/admin/audit").text,
            "the reason of a failure": json.dumps(rest.get(f"/runs/{run_id}/steps")),
            "redis": repr(sorted(seen | held_by(queue))),
        }
        logs = {path.name: path.read_text() for path in site.stack.folder.log.glob("*.log")}
    assert events
    assert seen
    assert {"web.log", "worker-1.log", "sweeper.log"} <= set(logs), sorted(logs)
    for place, text in {**told, **logs}.items():
        assert CANARY not in text, (place, text[max(0, text.index(CANARY) - 300) :][:600])
    assert tables_with_it(site) == WHERE_IT_BELONGS


def refused(site: Site, rest: Rest) -> list[str]:
    """Send secrets with requests that are refused for one reason or another; give the answers."""
    secret = f"refused-{CANARY}"
    token = site.token(rest.tenant)
    good = {"Authorization": f"Bearer {token}", "X-Stella-Tenant": rest.tenant, "Idempotency-Key": secret}
    url = site.stack.url + API
    answers = [
        httpx.get(url + "/runs", headers={**good, "Authorization": f"Bearer {secret}"}),
        httpx.get(url + "/runs", headers={**good, "Authorization": f"Basic {secret}"}),
        httpx.get(url + "/runs", headers={**good, "Cookie": f"session={secret}", "Accept": "text/html"}),
        httpx.get(url + "/runs", headers=good, params={"access_token": secret}),
        httpx.get(url + "/runs", headers=good, params={"page_token": secret}),
        httpx.post(url + "/runs", headers=good, content=f'{{"dagId": "{secret}'.encode()),
        httpx.post(url + "/runs", headers=good, json={"dagId": "secretive", "inputs": secret}),
        httpx.post(url + "/runs", headers=good, json={"dagId": "secretive", "inputs": {}, "key": secret}),
        httpx.post(url + "/runs", headers={**good, "Content-Type": "text/plain"}, content=secret.encode()),
        httpx.post(url + "/dags", headers=good, json={"dagId": "x", "steps": [{"with": {"env": secret}}]}),
        httpx.post(
            url + "/dags",
            headers=good,
            json={
                "dagId": "x",
                "version": "1.0.0",
                "steps": [{"id": "a", "uses": "command", "with": {"argv": ["x"], "env": {"A": [secret]}}}],
            },
        ),
    ]
    assert all(answer.status_code >= 400 for answer in answers[:2] + answers[3:]), answers
    return [f"{answer.status_code} {answer.headers} {answer.text}" for answer in answers]


def exported(rest: Rest) -> list[Document]:
    lines = rest.send("GET", "/runs:export").text.splitlines()
    return [cast("Document", json.loads(line)) for line in lines[:-1]]


def held_by(queue: redis.Redis) -> set[bytes]:
    """Read all that Redis holds, of whatever type, and what is in base64 there, as messages are."""
    found: set[bytes] = set()
    for key in queue.scan_iter(count=1_000):
        found |= {key, repr(READS[cast("bytes", queue.type(key))](queue, key)).encode()}
    for text in list(found):
        for piece in re.findall(rb"[A-Za-z0-9+/]{24,}={0,2}", text):
            with suppress(binascii.Error):
                found.add(base64.b64decode(piece))
    return found


def tables_with_it(site: Site) -> set[str]:
    """Name the tables of the ledger that have the canary in any column."""
    owner = cast("dict[str, str]", site.stack.description()["environ"])["ORCH_MIGRATION_DATABASE_URL"]
    with closing(psycopg2.connect(owner)) as connection, connection.cursor() as cur:
        cur.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'orch'")
        tables = [name for (name,) in cur.fetchall()]
        found = set()
        for table in tables:
            cur.execute(f"SELECT 1 FROM orch.{table} AS t WHERE t::text LIKE %s LIMIT 1", (f"%{CANARY}%",))
            if cur.fetchone():
                found.add(table)
    return found


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("orchestrator_worker", ()),
        ("orchestrator_worker.sweeper", ()),
        ("gunicorn", ("--config", "python:orchestrator_api.gunicorn_conf")),
        ("orchestrator_cli.main", ("db", "check")),
    ],
)
@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://orch:{CANARY}@127.0.0.1:1/orch",
        f"postgresql://orch:{CANARY}@[not-an-address/orch",
        f"postgresql://127.0.0.1:1/orch?password={CANARY}&connect_timeout=none",
        f"http://orch:{CANARY}@127.0.0.1/orch",
    ],
)
def test_no_process_tells_the_passwords_of_its_servers(
    site: Site, tmp_path: Path, module: str, arguments: tuple[str, ...], address: str
) -> None:
    own = cast("dict[str, str]", site.stack.description()["environ"])
    environ = {
        **clean_environ(),
        **{name: value for name, value in own.items() if not name.endswith("DATABASE_URL")},
        "ORCH_DATABASE_URL": address,
        "ORCH_REDIS_URL": f"redis://:{CANARY}@127.0.0.1:1/0",
        "ORCH_ARTIFACTS_URL": f"file://{tmp_path}/artifacts",
        "ORCH_WORK_DIR": str(tmp_path / "work"),
        "ORCH_PORT": "0",
        "ORCH_LOG_LEVEL": "debug",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        # A busy machine takes its time to start a process; what it says first is not all that it says.
        assert process.stdout is not None
        select.select([process.stdout], [], [], 30)
        said, _ = process.communicate(timeout=3)
    except subprocess.TimeoutExpired:
        process.terminate()
        said, _ = process.communicate(timeout=30)
    assert said
    assert CANARY not in said, said[max(0, said.index(CANARY) - 300) :][:600]
