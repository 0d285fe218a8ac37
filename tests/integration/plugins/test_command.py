from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shared.domain.models import Failed, JsonObject, Released, RetryPolicy, Stopped, Succeeded
from shared.domain.states import ErrorCode
from shared.plugins import StopReason
from tests.support.attempts import RUN_ID, TRACE_ID, Bench, claim
from tests.support.eventually import eventually

STUBBORN = "trap '' TERM; touch {ready}; while :; do sleep 0.1; done"
ESCAPING = "setsid sh -c \"trap '' TERM; echo \\$\\$ > {folder}/escaped; exec sleep 600\" & "


def shell(script: str, **more: object) -> JsonObject:
    return {"argv": ["sh", "-c", script], **more}  # type: ignore[dict-item]  # Tests write JSON by hand.


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and was not collected yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def number_in(path: Path) -> int:
    """Wait for a process to write down its id."""
    return int(eventually(lambda: path.exists() and path.read_text().strip()))


def log_of(bench: Bench, outcome: Succeeded | Failed) -> bytes:
    return bench.read(outcome.logs_ref)


def test_a_command_runs_without_a_shell(bench: Bench) -> None:
    outcome = bench.succeed("command", {"argv": ["echo", "$HOME; ls", 3, True]})
    assert outcome.outputs == {"exitCode": 0, "files": {}}
    assert log_of(bench, outcome) == b"$HOME; ls 3 true\n"


def test_a_silent_command_has_no_log(bench: Bench) -> None:
    assert bench.succeed("command", {"argv": ["true"]}).logs_ref is None


def test_the_environment_is_minimal_and_tells_the_command_where_it_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCH_DATABASE_URL", "postgresql://user:secret@host/db")
    outcome = bench.succeed("command", {"argv": ["env"], "env": {"GREETING": "hello", "N": 3}})
    given = dict(line.split("=", 1) for line in log_of(bench, outcome).decode().splitlines())
    base = str(bench.settings.work_dir)
    assert given.pop("PATH").split(":")[0] == str(Path(sys.executable).parent)
    assert given.pop("HOME").startswith(base)
    assert given.pop("TMPDIR").startswith(base)
    assert given.pop("ORCH_OUTPUT_DIR").startswith(base)
    assert given.pop("TRACEPARENT").startswith(f"00-{TRACE_ID}-")
    given.pop("PWD", None)
    assert given == {
        "GREETING": "hello",
        "N": "3",
        "LANG": "C.UTF-8",
        "ORCH_RUN_ID": str(RUN_ID),
        "ORCH_STEP_ID": "work",
        "ORCH_ATTEMPT": "1",
    }


def test_a_command_inherits_no_descriptor_and_reads_nothing(bench: Bench) -> None:
    outcome = bench.succeed("command", shell("ls /proc/self/fd | wc -l; cat", captureStdout=True))
    assert outcome.outputs["stdout"] == "4"  # 0, 1, 2, and the folder that ls itself has open.


def test_members_of_outputs_json_become_outputs_and_files_become_artifacts(bench: Bench) -> None:
    script = """cd "$ORCH_OUTPUT_DIR"; echo '{"count": 2, "list": [1, null]}' > outputs.json
        mkdir -p deep/er; printf abc > deep/er/report.md; printf '' > empty"""
    outcome = bench.succeed("command", shell(script))
    files = outcome.outputs["files"]
    assert isinstance(files, dict)
    assert outcome.outputs == {"exitCode": 0, "count": 2, "list": [1, None], "files": files}
    assert {name: ref["size"] for name, ref in files.items()} == {"deep/er/report.md": 3, "empty": 0}
    assert bench.read(files["deep/er/report.md"]["hash"]) == b"abc"
    assert [(a.name, a.content_type) for a in outcome.artifacts] == [
        ("deep/er/report.md", "text/markdown"),
        ("empty", "application/octet-stream"),
    ]
    assert bench.work_folders() == []


def test_links_and_special_files_are_passed_over(bench: Bench) -> None:
    script = (
        """cd "$ORCH_OUTPUT_DIR"; ln -s /etc/passwd link; ln -s /etc folder; mkfifo pipe; echo x > kept"""
    )
    outcome = bench.succeed("command", shell(script))
    assert [artifact.name for artifact in outcome.artifacts] == ["kept", "log"]
    log = log_of(bench, outcome).decode()
    assert [name in log for name in ("'link'", "'folder'", "'pipe'", "'kept'")] == [True, True, True, False]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo '[1]' > outputs.json", "must be a JSON object"),
        ("echo '{\"a\": 1' > outputs.json", "no sound JSON"),
        ("echo '{\"a\": NaN}' > outputs.json", "NaN is no JSON number"),
        ('echo \'{"a": 1, "a": 2}\' > outputs.json', "two members of the same name"),
        ('printf \'{"a": "\\377"}\' > outputs.json', "no sound JSON"),
        ("echo '{\"exitCode\": 7}' > outputs.json", "'exitCode'"),
        ("echo '{\"files\": {}}' > outputs.json", "'files'"),
        ('echo \'{"stdout": ""}\' > outputs.json', "'stdout'"),
        ('echo \'{"a": "\\u0000"}\' > outputs.json', "NUL"),
        ("ln -s /etc/passwd outputs.json", "cannot be read"),
        ("mkfifo outputs.json", "no regular file"),
        ("mkdir outputs.json", "no regular file"),
        ("head -c 100000 /dev/zero | tr '\\0' '[' > outputs.json", "no sound JSON"),
        ("touch log", "kept for the step's own log"),
        ("touch \"$(printf 'a\\nb')\"", "printable"),
        ("touch \"$(printf 'a\\377b')\"", "printable"),
    ],
)
def test_outputs_that_cannot_be_recorded_fail_the_step_with_the_reason(
    bench: Bench, script: str, told: str
) -> None:
    outcome = bench.fail("command", shell(f'cd "$ORCH_OUTPUT_DIR"; {script}'))
    assert outcome.error_code is ErrorCode.PLUGIN_ERROR
    assert told in outcome.error_message


@pytest.mark.parametrize(
    "script",
    [
        "head -c 300000 /dev/zero | tr '\\0' ' ' > outputs.json",
        "i=0; while [ $i -le 1000 ]; do : > f$i; i=$((i+1)); done",
    ],
)
def test_too_many_outputs_fail_the_step(bench: Bench, script: str) -> None:
    outcome = bench.fail("command", shell(f'cd "$ORCH_OUTPUT_DIR"; {script}'))
    assert outcome.error_code is ErrorCode.OUTPUTS_TOO_LARGE


def test_stdout_is_an_output_only_on_request(bench: Bench) -> None:
    outcome = bench.succeed("command", shell("echo one; echo two; echo no >&2", captureStdout=True))
    assert outcome.outputs["stdout"] == "one\ntwo"
    assert sorted(log_of(bench, outcome).splitlines()) == [b"no", b"one", b"two"]


def test_captured_stdout_is_bounded(bench: Bench) -> None:
    fits = bench.succeed("command", shell("head -c 65536 /dev/zero | tr '\\0' x", captureStdout=True))
    assert fits.outputs["stdout"] == "x" * 65_536
    over = bench.fail("command", shell("head -c 65537 /dev/zero | tr '\\0' x", captureStdout=True))
    assert over.error_code is ErrorCode.OUTPUTS_TOO_LARGE


def test_output_over_the_log_limit_does_not_hold_up_the_command(bench: Bench) -> None:
    outcome = bench.succeed("command", shell("head -c 12000000 /dev/zero; echo done >&2"))
    log = log_of(bench, outcome)
    assert len(log) < 10_486_000
    assert b"[log cut here: " in log


def test_an_exit_status_fails_the_step_and_says_why(bench: Bench) -> None:
    script = "echo fine; echo 'RECORD: six.py has another hash' >&2; exit 3"
    outcome = bench.run(claim("command", shell(script), retry=RetryPolicy(max_attempts=2)))
    assert isinstance(outcome, Failed)
    assert outcome.error_code is ErrorCode.EXIT_STATUS
    assert outcome.error_message == "exit status 3: RECORD: six.py has another hash"
    assert outcome.retry_delay_ms == 1_000
    assert b"fine" in log_of(bench, outcome)
    assert bench.work_folders() == []


def test_without_stderr_the_end_of_stdout_says_why(bench: Bench) -> None:
    outcome = bench.fail("command", shell("seq 1 100; exit 1"))
    assert outcome.error_message == "exit status 1: " + "\n".join(str(n) for n in range(91, 101))


def test_an_end_by_a_signal_is_named(bench: Bench) -> None:
    outcome = bench.fail("command", shell("kill -SEGV $$"))
    assert outcome.error_code is ErrorCode.EXIT_STATUS
    assert outcome.error_message == "ended by SIGSEGV"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["no-such-program"], "cannot start 'no-such-program': No such file"),
        (["/etc"], "Permission denied"),
        (["sh", "-c", "a\0b"], "NUL"),
        ([""], "cannot start ''"),
        (["true", "x" * 2_000_000], "Argument list too long"),
    ],
)
def test_a_program_that_cannot_be_started_is_no_case_for_a_retry(
    bench: Bench, argv: list[str], told: str
) -> None:
    outcome = bench.run(claim("command", {"argv": argv}, retry=RetryPolicy(max_attempts=3)))
    assert isinstance(outcome, Failed)
    assert (outcome.error_code, outcome.retry_delay_ms) == (ErrorCode.PLUGIN_ERROR, None)
    assert told in outcome.error_message


def test_files_of_an_ancestor_are_placed_read_only(bench: Bench) -> None:
    first = bench.succeed("command", shell('echo \'{"a": 1}\' > "$ORCH_OUTPUT_DIR/inventory.json"'))
    files = first.outputs["files"]
    assert isinstance(files, dict)
    sha256 = files["inventory.json"]["hash"]
    bench.owned.add(sha256)
    script = (
        "cat in/inventory.json; stat -c %a in/inventory.json; chmod u+w in/*; echo bad > in/inventory.json"
    )
    second = bench.succeed(
        "command", shell(script, inputFiles={"in/inventory.json": sha256}, captureStdout=True)
    )
    assert second.outputs["stdout"] == '{"a": 1}\n444'
    assert bench.read(sha256) == b'{"a": 1}\n'


def test_an_artifact_of_another_tenant_does_not_exist(bench: Bench) -> None:
    sha256, _ = bench.store.put_bytes(b"of somebody else")
    outcome = bench.fail("command", {"argv": ["true"], "inputFiles": {"a": sha256}})
    assert outcome.error_message == f"inputFiles: 'a': there is no artifact {sha256}"


@pytest.mark.parametrize("name", ["/abs", "../up", "a/../../up", "", ".", "a//b"])
def test_an_input_file_stays_in_the_work_folder(bench: Bench, name: str) -> None:
    sha256, _ = bench.store.put_bytes(b"x")
    bench.owned.add(sha256)
    outcome = bench.fail("command", {"argv": ["true"], "inputFiles": {name: sha256}})
    assert "no plain relative path" in outcome.error_message


def test_an_input_file_cannot_lie_below_another(bench: Bench) -> None:
    sha256, _ = bench.store.put_bytes(b"x")
    bench.owned.add(sha256)
    for names in (("a", "a/b"), ("a/b", "a")):
        outcome = bench.fail("command", {"argv": ["true"], "inputFiles": dict.fromkeys(names, sha256)})
        assert "below another file" in outcome.error_message


def test_a_time_out_ends_the_whole_tree(bench: Bench, tmp_path: Path) -> None:
    script = ESCAPING.format(folder=tmp_path) + STUBBORN.format(ready=tmp_path / "ready")
    running = bench.begin(claim("command", shell(script), timeout_ms=1_500))
    escaped = number_in(tmp_path / "escaped")
    assert is_running(escaped)
    outcome = running.outcome()
    assert isinstance(outcome, Failed)
    assert outcome.error_code is ErrorCode.TIMEOUT
    assert not is_running(escaped)
    assert bench.work_folders() == []


@pytest.mark.parametrize(
    ("reason", "kind"),
    [(StopReason.CANCELLED, Stopped), (StopReason.RELEASED, Released), (StopReason.LEASE_LOST, Released)],
)
def test_a_stop_ends_the_whole_tree(
    bench: Bench, tmp_path: Path, reason: StopReason, kind: type[Stopped | Released]
) -> None:
    script = ESCAPING.format(folder=tmp_path) + STUBBORN.format(ready=tmp_path / "ready")
    running = bench.begin(claim("command", shell(script)))
    escaped = number_in(tmp_path / "escaped")
    eventually((tmp_path / "ready").exists)
    running.stop.request(reason)
    assert isinstance(running.outcome(), kind)
    assert not is_running(escaped)


def test_a_command_may_clean_up_when_it_is_stopped_and_its_log_is_kept(bench: Bench, tmp_path: Path) -> None:
    script = f"trap 'echo bye; exit 0' TERM; touch {tmp_path}/ready; while :; do sleep 0.05; done"
    running = bench.begin(claim("command", shell(script)))
    eventually((tmp_path / "ready").exists)
    running.stop.request(StopReason.CANCELLED)
    outcome = running.outcome()
    assert isinstance(outcome, Stopped)
    assert bench.read(outcome.logs_ref).endswith(b"bye\n")
    assert [artifact.name for artifact in outcome.artifacts] == ["log"]


def test_what_a_command_leaves_running_ends_with_it(bench: Bench, tmp_path: Path) -> None:
    script = ESCAPING.format(folder=tmp_path) + f"while [ ! -s {tmp_path}/escaped ]; do sleep 0.05; done"
    bench.succeed("command", shell(script))
    assert not is_running(number_in(tmp_path / "escaped"))


def test_a_command_that_kills_its_keeper_fails_and_is_gone(bench: Bench, tmp_path: Path) -> None:
    outcome = bench.fail("command", shell(f"echo $$ > {tmp_path}/pid; kill -9 $PPID; exec sleep 600"))
    assert outcome.error_code is ErrorCode.PLUGIN_ERROR
    assert not is_running(number_in(tmp_path / "pid"))


WORKER = """
import sys
from pathlib import Path
from tests.support.attempts import Bench, claim
Bench(folder=Path(sys.argv[1])).run(claim("command", {"argv": ["sh", "-c", sys.argv[2]]}))
"""


def test_a_killed_worker_leaves_no_process_of_its_step(tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/stubborn; " + ESCAPING.format(folder=tmp_path)
    script += STUBBORN.format(ready=tmp_path / "ready")
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), script])
    try:
        pids = [number_in(tmp_path / "stubborn"), number_in(tmp_path / "escaped")]
        eventually((tmp_path / "ready").exists)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    assert eventually(lambda: not any(is_running(pid) for pid in pids), within=3)
    left_behind = Bench(folder=tmp_path).work_folders()
    assert len(left_behind) == 1


def test_the_keeper_obeys_sigterm_as_well(bench: Bench, tmp_path: Path) -> None:
    running = bench.begin(claim("command", shell(f"echo $PPID > {tmp_path}/keeper; exec sleep 600")))
    os.kill(number_in(tmp_path / "keeper"), signal.SIGTERM)
    outcome = running.outcome()
    assert isinstance(outcome, Failed)
    assert outcome.error_message == "ended by SIGTERM"


def test_equal_work_has_equal_hashes(bench: Bench) -> None:
    params = shell('echo "$RANDOM$$"; echo same > "$ORCH_OUTPUT_DIR/file"')
    first, second = bench.succeed("command", params), bench.succeed("command", params)
    assert (first.inputs_hash, first.outputs_hash) == (second.inputs_hash, second.outputs_hash)


def test_many_commands_at_once_keep_apart(bench: Bench) -> None:
    runs = [
        bench.begin(claim("command", shell(f'pwd; echo \'{{"n": {n}}}\' > "$ORCH_OUTPUT_DIR/outputs.json"')))
        for n in range(6)
    ]
    outcomes = [run.outcome(within=30) for run in runs]
    assert [json.loads(json.dumps(o.outputs))["n"] for o in outcomes if isinstance(o, Succeeded)] == list(
        range(6)
    )
    assert bench.work_folders() == []
