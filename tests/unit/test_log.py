"""Logs are JSON lines, and no secret gets into them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import cast

import pytest

from shared.log import redact

TOKEN = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl"
PROGRAM = """
import logging, structlog
from shared.log import configure_logging
configure_logging("info", component="test")
log = structlog.get_logger("ours")
log.info("step_claimed", step_id="a\\nb", attempt=2, url="postgresql://orch:hunter2@db/orch", token="hunter2")
log.info("nested", headers={"Authorization": "hunter2"}, hosts=["redis://:hunter2@queue"])
logging.getLogger("library").warning("cannot reach %s", "redis://:hunter2@queue")
logging.getLogger("kombu").info("chatter")
try:
    raise ValueError("password=hunter2")
except ValueError:
    log.exception("went_wrong")
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"got {TOKEN}!", "got [token]!"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer [token]"),
        ("postgresql://orch:p%40ss@db:5432/orch", "postgresql://orch:[password]@db:5432/orch"),
        ("unix://:pw@/run/redis.sock", "unix://:[password]@/run/redis.sock"),
        ("host=db password=pw user=orch", "host=db password=[hidden] user=orch"),
        ("https://example.com:8443/a@b", "https://example.com:8443/a@b"),
    ],
)
def test_what_looks_like_a_secret_is_replaced(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_every_line_is_one_json_object_without_secrets() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "hunter2" not in done.stderr
    events = [cast("dict[str, object]", json.loads(line)) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events] == [
        "step_claimed",
        "nested",
        "cannot reach redis://:[password]@queue",
        "went_wrong",
    ]
    assert {event["component"] for event in events} == {"test"}
    assert (events[0]["step_id"], events[0]["attempt"], events[0]["level"]) == ("a\nb", 2, "info")
    assert "ValueError: password=[hidden]" in str(events[3]["exception"])
