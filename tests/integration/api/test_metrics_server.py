"""The page as several gunicorn processes serve it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.multiprocess import MultiProcessCollector

from shared.embedded.process_tree import descendants, start_ticks
from tests.integration.api.test_metrics import Page, parsed
from tests.support.eventually import eventually
from tests.support.tokens import Signer
from tests.support.web import Web, serving

PROCESSES = 2


@pytest.fixture
def web(tmp_path: Path, signer: Signer, database_url: str, redis_url: str) -> Iterator[Web]:
    """Two processes, each with one thread, so that a request is served by whoever is free."""
    (tmp_path / "tmp").mkdir()
    with serving(
        tmp_path,
        signer,
        database_url,
        redis_url,
        ORCH_WEB_PROCESSES=str(PROCESSES),
        ORCH_WEB_THREADS="1",
        TMPDIR=str(tmp_path / "tmp"),
    ) as running:
        yield running


def page(web: Web) -> Page:
    with web.client() as client:
        response = client.get("/admin/metrics")
        assert response.status_code == 200, response.text
        return parsed(response.text)


def served(of: Page) -> float:
    """Give how many requests for the list of plugins were answered."""
    return sum(
        count
        for (name, labels), count in of.items()
        if name == "flask_http_request_duration_seconds_count" and ("url_rule", "/plugins") in labels
    )


def ask_both(web: Web, folder: Path) -> int:
    """Send requests until each process has served some; give how many."""
    before, sent = [count_in(file) for file in files_of(folder)], 0
    while any(count_in(file) <= old for file, old in zip(files_of(folder), before, strict=True)):
        # All connections at once: whoever is busy with one leaves the next to the other.
        with ExitStack() as stack:
            for _ in range(2 * PROCESSES):
                assert stack.enter_context(web.client()).get("/plugins").status_code == 200
                sent += 1
        assert sent < 1_000, "one process serves everything"
    return sent


def files_of(folder: Path) -> list[Path]:
    return [folder / f"histogram_{place}.db" for place in range(PROCESSES)]


def count_in(file: Path) -> float:
    if not file.exists():
        return 0
    merged = MultiProcessCollector.merge([str(file)])  # type: ignore[no-untyped-call]
    return served(
        {(s.name, frozenset(s.labels.items())): s.value for metric in merged for s in metric.samples}
    )


def processes(web: Web) -> list[int]:
    return sorted(descendants(web.process.pid))


def kill_one(web: Web) -> None:
    """End a process as a crash would, and wait until gunicorn has started another."""
    killed = processes(web)[0]
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: killed not in processes(web) and len(processes(web)) == PROCESSES, within=20)


def test_counts_of_all_processes_add_up_and_outlive_them(web: Web, tmp_path: Path) -> None:
    folder = next((tmp_path / "tmp").glob("orch-metrics-*"))
    eventually((folder / f"counter_{PROCESSES - 1}.db").exists, within=20)
    sent = ask_both(web, folder)
    assert served(page(web)) == sent
    files = sorted(file.name for file in folder.iterdir())
    for _ in range(3):
        kill_one(web)
        assert served(page(web)) == sent
        sent += ask_both(web, folder)
        assert served(page(web)) == sent
    # Who comes after a dead process counts on in its file: what a scrape reads does not grow with deaths.
    assert sorted(file.name for file in folder.iterdir()) == files


def test_the_folder_goes_with_the_server(web: Web, tmp_path: Path) -> None:
    assert list((tmp_path / "tmp").glob("orch-metrics-*"))
    web.process.send_signal(signal.SIGTERM)
    assert web.process.wait(timeout=15) == 0
    assert not list((tmp_path / "tmp").glob("orch-metrics-*"))


def test_what_a_killed_server_leaves_is_removed_by_the_next_and_that_of_the_living_is_not(
    tmp_path: Path, signer: Signer, database_url: str, redis_url: str
) -> None:
    (tmp_path / "tmp").mkdir()
    environ = {"TMPDIR": str(tmp_path / "tmp")}

    def folders() -> set[Path]:
        return set((tmp_path / "tmp").glob("orch-metrics-*"))

    with serving(tmp_path, signer, database_url, redis_url, **environ) as first:
        left = folders()
        children = eventually(lambda: processes(first))
        first.process.kill()
        first.process.wait()
        eventually(lambda: not any(start_ticks(pid) for pid in children), within=20)
        assert folders() == left
        with serving(tmp_path, signer, database_url, redis_url, **environ):
            living = folders()
            assert living
            assert not living & left
            with serving(tmp_path, signer, database_url, redis_url, **environ):
                assert living < folders()
    assert not folders()
