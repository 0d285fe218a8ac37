"""An artifact store that is full, away, or left by a writer that died: steps say so, and it works again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL

import pytest

from tests.support.eventually import eventually
from tests.support.rest import Document, Rest, shell
from tests.support.site import Site, running_site
from tests.support.small_disk import small_disk

LEFTOVERS_GONE_WITHIN_S = 60.0
PATIENT: Document = {"maxAttempts": 100, "initialDelayMs": 200, "maxDelayMs": 200}
WRITES = 'head -c 600000 /dev/urandom >"$ORCH_OUTPUT_DIR/large"'


@pytest.fixture(scope="module")
def store_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A stack whose artifacts have a disk of their own."""
    data = tmp_path_factory.mktemp("stored") / "data"
    data.mkdir(mode=0o700)
    with small_disk(data / "artifacts", size="512m"), running_site(data) as running:
        yield running


@pytest.fixture
def site(store_site: Site) -> Iterator[Site]:
    """The same; after the test no writer has left anything, and all is well in the ledger."""
    yield store_site
    eventually(lambda: not leftovers(store_site), within=LEFTOVERS_GONE_WITHIN_S)
    store_site.check()


def leftovers(site: Site) -> list[Path]:
    return list((site.stack.folder.artifacts / ".new").iterdir())


def written_by(rest: Rest, run_id: str) -> str:
    """Wait for a run; give the hash of what its step has written."""
    assert rest.ended(run_id)["status"] == "completed"
    return str(rest.step(run_id, "write")["outputs"]["files"]["large"]["hash"])


def fill(file: Path) -> None:
    """Take all but the last few pages of the disk."""
    disk = os.statvfs(file.parent)
    with file.open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, (disk.f_bavail - 4) * disk.f_frsize)


def test_a_full_store_fails_steps_with_the_reason_and_works_again_once_there_is_room(site: Site) -> None:
    ballast = site.stack.folder.artifacts / "ballast"
    with site.rest() as rest:
        rest.publish("hasty", [shell("write", WRITES)])
        rest.publish("patient", [shell("write", WRITES, retry=PATIENT)])
        rest.publish("light", [{"id": "only", "uses": "noop"}])
        kept = written_by(rest, rest.start("hasty"))
        fill(ballast)
        try:
            assert rest.ended(rest.start("hasty"))["status"] == "failed"
            waiting = rest.start("patient")
            eventually(lambda: "failed" in rest.attempts(waiting, "write"))
            (first, *_) = rest.step(waiting, "write")["attempts"]
            assert (first["errorCode"], first["errorMessage"]) == (
                "PLUGIN_ERROR",
                "the artifact store is full",
            )
            eventually(lambda: not leftovers(site))
            # Nobody else notices.
            assert rest.ended(rest.start("light"))["status"] == "completed"
            for path in ("/runs", "/dags", "/admin/health", "/admin/metrics", "/admin/audit", "/plugins"):
                assert rest.send("GET", path).status_code == 200, path
            assert len(rest.artifact(kept)) == 600_000
        finally:
            ballast.unlink()
        assert rest.ended(waiting)["status"] == "completed"
        assert rest.ended(rest.start("hasty"))["status"] == "completed"


def test_a_store_whose_folder_is_away_works_again_when_it_is_back(site: Site) -> None:
    artifacts = site.stack.folder.artifacts
    with site.rest() as rest:
        rest.publish("patient", [shell("write", WRITES, retry=PATIENT)])
        sha256 = written_by(rest, rest.start("patient"))
        # What is mounted here is an empty disk: nothing may be written to it.
        with small_disk(artifacts):
            waiting = rest.start("patient")
            eventually(lambda: "failed" in rest.attempts(waiting, "write"))
            refused = rest.send("GET", f"/artifacts/{sha256}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "UNAVAILABLE")
            assert "Retry-After" in refused.headers
            assert list(artifacts.iterdir()) == []
        assert rest.ended(waiting)["status"] == "completed"
        assert len(rest.artifact(sha256)) == 600_000


def test_what_a_worker_was_writing_when_it_was_killed_is_swept(site: Site) -> None:
    # It takes a second to write, and nothing to make: it is one large hole.
    script = '[ "$ORCH_ATTEMPT" -gt 1 ] || truncate -s 400M "$ORCH_OUTPUT_DIR/large"'
    with site.rest() as rest:
        rest.publish("large", [shell("write", script)])
        run_id = rest.start("large")
        eventually(lambda: leftovers(site))
        for worker in site.workers():
            site.signal(worker, SIGKILL)
        assert leftovers(site)
        assert rest.ended(run_id)["status"] == "completed"
        assert rest.attempts(run_id, "write") == ["lost", "succeeded"]
