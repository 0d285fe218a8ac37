"""The log of a real command, read and followed by an HTTP client."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.rest import shell
from tests.support.site import Site

WAIT = "until test -e {}; do sleep 0.02; done"


def logs_of(run_id: str) -> str:
    return f"/runs/{run_id}/steps/talk/logs"


def test_a_client_follows_a_command_line_by_line_and_across_its_retry(site: Site, tmp_path: Path) -> None:
    go, again = tmp_path / "go", tmp_path / "again"
    script = (
        f"test -e {again} && {{ echo 'second try'; exit; }}; "
        f"echo hello; {WAIT.format(go)}; seq 100000; touch {again}; exit 1"
    )
    retry = {"maxAttempts": 2, "initialDelayMs": 50}
    with site.rest() as rest:
        rest.publish("talk", [shell("talk", script, retry=retry)])
        run_id = rest.start("talk")
        with rest.following(run_id, "talk") as response:
            assert response.status_code == 200
            assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
            pieces = response.iter_bytes()
            text = next(pieces)
            assert text == b"hello\n"
            assert rest.send("GET", logs_of(run_id)).content == b"hello\n"
            go.touch()
            text += b"".join(pieces)
        rest.ended(run_id)
        whole = [rest.send("GET", f"{logs_of(run_id)}?attempt={number}").content for number in (1, 2)]
        assert text == b"".join(whole)
        assert whole[0].endswith(b"99999\n100000\n")
        assert whole[1] == b"second try\n"
        assert rest.send("GET", logs_of(run_id)).content == whole[1]
        attempts = rest.step(run_id, "talk")["attempts"]
        assert [rest.artifact(attempt["logsRef"]) for attempt in attempts] == whole


def test_followers_leave_threads_for_others_and_a_client_that_goes_frees_its_place(
    site: Site, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    with site.rest() as rest, ExitStack() as others:
        rest.publish("talk", [shell("talk", WAIT.format(go))])
        run_id = rest.start("talk")
        gone = ExitStack()
        gone.enter_context(rest.following(run_id, "talk"))
        places = 1
        while others.enter_context(rest.following(run_id, "talk")).status_code == 200:
            places += 1
        assert places == 4
        assert rest.run(run_id)["status"] == "running"
        gone.close()

        def free() -> bool:
            with rest.following(run_id, "talk") as response:
                return response.status_code == 200

        eventually(free)
        go.touch()
        rest.ended(run_id)
