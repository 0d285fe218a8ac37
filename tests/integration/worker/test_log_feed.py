"""A worker shows the logs of its running attempts, and no step waits for that."""

from __future__ import annotations

from pathlib import Path

from redis import Redis

from shared.artifacts import FolderStore
from shared.domain.models import RunId
from shared.messaging.live_log import START, LiveLogs, LogKey
from tests.integration.worker.fleet import ACME, Fleet, chain, dag, step
from tests.support.eventually import eventually

WAIT = "until test -e {}; do sleep 0.02; done"


def shell(fleet: Fleet, script: str, name: str = "shell") -> RunId:
    return fleet.start(fleet.publish(dag(name, [step("s0", "command", argv=["sh", "-c", script])])))


def shown(fleet: Fleet, run_id: RunId, attempt: int = 1) -> bytes:
    live = LiveLogs(fleet.environ["ORCH_REDIS_URL"])
    pieces, _ = live.read(LogKey(ACME, run_id, 0, attempt), START)
    live.close()
    text = b""
    for piece in pieces:
        assert piece.offset == len(text)
        text += piece.data
    return text


def stored(fleet: Fleet, run_id: RunId) -> bytes:
    (attempt,) = fleet.attempts(run_id)
    assert attempt.logs_ref is not None
    with FolderStore(fleet.folder / "artifacts").open(attempt.logs_ref) as file:
        return file.read()


def log_keys(client: Redis) -> list[bytes]:
    return list(client.scan_iter("orchestrator:log:*"))


def test_a_log_can_be_read_while_the_command_runs_and_is_soon_forgotten_after(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.worker()
    go, on = tmp_path / "go", tmp_path / "on"
    script = f"echo one; {WAIT.format(go)}; echo two >&2; {WAIT.format(on)}; echo three"
    run_id = shell(fleet, script)

    eventually(lambda: shown(fleet, run_id) == b"one\n")
    go.touch()
    eventually(lambda: shown(fleet, run_id) == b"one\ntwo\n")
    with fleet.redis() as client:
        (key,) = log_keys(client)
        assert 0 < client.ttl(key) <= 120
        on.touch()
        fleet.completed(run_id)
        eventually(lambda: client.ttl(key) <= 5)
    assert stored(fleet, run_id) == b"one\ntwo\nthree\n"


def test_only_the_first_part_of_a_long_log_is_shown(fleet: Fleet, tmp_path: Path) -> None:
    fleet.worker(ORCH_LIVE_LOG_BYTES="1000")
    go = tmp_path / "go"
    run_id = shell(fleet, f"head -c 5000 /dev/zero; {WAIT.format(go)}")

    eventually(lambda: shown(fleet, run_id) == bytes(1_000))
    go.touch()
    fleet.completed(run_id)
    assert stored(fleet, run_id) == bytes(5_000)


def test_what_logs_nothing_or_is_not_to_be_shown_leaves_nothing_in_redis(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.worker(ORCH_LIVE_LOG_BYTES="0")
    go = tmp_path / "go"
    silent = shell(fleet, f"echo one; {WAIT.format(go)}")
    fleet.completed(fleet.start(fleet.publish(chain(20))))
    fleet.until_running(silent)
    with fleet.redis() as client:
        assert log_keys(client) == []
    go.touch()
    fleet.completed(silent)
    assert stored(fleet, silent) == b"one\n"


def test_no_step_waits_for_a_redis_that_takes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    worker = fleet.worker()
    go = tmp_path / "go"
    run_id = shell(fleet, f"echo one; {WAIT.format(go)}; echo two")
    eventually(lambda: shown(fleet, run_id) == b"one\n")
    with fleet.redis() as client:
        (key,) = log_keys(client)
        client.set(key, "this is no stream")
        go.touch()
        fleet.completed(run_id)
    assert stored(fleet, run_id) == b"one\ntwo\n"
    assert worker.alive
