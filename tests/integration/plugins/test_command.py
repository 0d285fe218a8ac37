from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator_worker.work_folders import PREFIX
from shared.artifacts import FolderStore
from shared.domain.models import Failed, JsonObject, Released, RetryPolicy, Stopped, Succeeded
from shared.domain.states import ErrorCode
from shared.plugins import StopReason
from tests.support.attempts import RUN_ID, TRACE_ID, Bench, claim
from tests.support.eventually import eventually
from tests.support.small_disk import small_disk

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


ENDS_WITHIN_S = 2.0
"""How much longer than its time limit and the grace time a step with all its processes may live."""
FORKS = """
import os, time
if os.fork():
    time.sleep(600)
os.setsid()
while True:
    if os.fork():
        os._exit(0)
"""
MANY = """
import os, time
for _ in range(9):
    os.fork()
os.setsid() if os.getpgrp() != os.getpid() else None
time.sleep(600)
"""


@pytest.mark.parametrize(
    "escape",
    [
        pytest.param("exec >&- 2>&-; exec sleep 600", id="closes its output and lives on"),
        pytest.param("(setsid sh -c 'setsid sleep 600 &' &); sleep 600", id="forks twice"),
        pytest.param("nohup sleep 600 & trap '' TERM HUP INT; sleep 600", id="ignores signals"),
        pytest.param("setsid sleep 600 & sleep 0.2; kill -STOP $!; kill -STOP $$", id="is stopped"),
        pytest.param("kill -STOP $PPID; exec sleep 600", id="stops its keeper"),
        pytest.param(f"exec python -c '{FORKS}'", id="forks and ends for ever, in another session"),
        pytest.param(f"exec python -c '{MANY}'", id="has 512 processes, each in a session of its own"),
    ],
)
def test_a_time_out_ends_whatever_a_command_does_to_live_on(bench: Bench, escape: str) -> None:
    running = bench.begin(claim("command", shell(escape), timeout_ms=1_500))
    # It has another name until it is locked.
    folder = eventually(lambda: [path for path in bench.work_folders() if path.name.startswith(PREFIX)])[0]
    eventually(lambda: processes_of(folder))
    outcome = running.outcome(within=1.5 + bench.settings.kill_grace_ms / 1000 + ENDS_WITHIN_S)
    assert isinstance(outcome, Failed)
    assert outcome.error_code is ErrorCode.TIMEOUT
    assert processes_of(folder) == []
    assert bench.work_folders() == []


def processes_of(folder: Path) -> list[int]:
    """List the processes whose environment names an attempt's folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"={folder}/".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def test_a_command_ends_although_a_child_holds_its_output_open(bench: Bench) -> None:
    outcome = bench.succeed("command", shell("setsid sleep 600 & echo done", captureStdout=True))
    assert outcome.outputs["stdout"] == "done"


def test_a_flood_of_output_does_not_grow_the_worker(bench: Bench) -> None:
    bench.succeed("command", shell("head -c 1000000 /dev/zero"))
    before = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # The peak is counted from here.
    outcome = bench.succeed("command", shell("head -c 1073741824 /dev/zero"))
    assert len(log_of(bench, outcome)) < bench.settings.max_log_bytes + 100
    assert memory_mb("VmHWM") - before < 2 * bench.settings.max_log_bytes / 1e6 + 10
    assert memory_mb("VmRSS") - before < 20


def memory_mb(name: str) -> float:
    """Read a figure of this process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def test_any_number_of_output_files_is_refused_and_removed(bench: Bench) -> None:
    script = "import os; [os.mknod(str(n)) for n in range(20_000)]"
    outcome = bench.fail("command", shell(f'cd "$ORCH_OUTPUT_DIR"; python -c "{script}"'), timeout_ms=300_000)
    assert outcome.error_code is ErrorCode.OUTPUTS_TOO_LARGE
    assert bench.work_folders() == []


@pytest.mark.parametrize(("where", "depth"), [("ORCH_OUTPUT_DIR", 1_200), ("TMPDIR", 2_000)])
def test_folders_one_in_the_other_are_no_trouble_to_the_worker(bench: Bench, where: str, depth: int) -> None:
    script = f"import os; [(os.mkdir('inner'), os.chdir('inner')) for _ in range({depth})]"
    outcome = bench.run(claim("command", shell(f'cd "${where}"; python -c "{script}"')))
    assert bench.work_folders() == []
    if where == "TMPDIR":
        assert isinstance(outcome, Succeeded)
    else:
        assert isinstance(outcome, Failed)
        assert "over 1024 bytes" in outcome.error_message


def test_a_file_over_the_limit_is_refused(bench: Bench) -> None:
    bench.settings = replace(bench.settings, max_artifact_bytes=1_000_000)
    outcome = bench.fail("command", shell('head -c 1000001 /dev/zero > "$ORCH_OUTPUT_DIR/large"'))
    assert outcome.error_code is ErrorCode.OUTPUTS_TOO_LARGE
    assert [path for path in (bench.folder / "artifacts").rglob("*") if path.is_file()] == []


def test_a_full_disk_of_the_work_folders_is_worth_a_retry(bench: Bench) -> None:
    step = claim("command", shell("head -c 2000000 /dev/zero > file"), retry=RetryPolicy(max_attempts=2))
    with small_disk(bench.settings.work_dir):
        failed = bench.run(step)
        assert isinstance(failed, Failed)
        assert "No space left" in failed.error_message
        assert failed.retry_delay_ms is not None
        assert bench.work_folders() == []
        (bench.settings.work_dir / "ballast").write_bytes(bytes(1 << 20))
        refused = bench.run(claim("command", shell("echo x > file"), retry=RetryPolicy(max_attempts=2)))
        assert isinstance(refused, Failed)
        assert refused.retry_delay_ms is not None
        (bench.settings.work_dir / "ballast").unlink()
        bench.succeed("command", shell("echo x > file"))


def test_a_full_artifact_store_fails_the_step_with_a_reason_worth_a_retry(bench: Bench) -> None:
    bench.run(claim("noop", {}))
    script = 'head -c 2000000 /dev/zero > "$ORCH_OUTPUT_DIR/file"; echo written'
    step = claim("command", shell(script), retry=RetryPolicy(max_attempts=2))
    with small_disk(bench.folder / "artifacts"):
        bench.store = FolderStore(bench.folder / "artifacts")
        outcome = bench.run(step)
        assert isinstance(outcome, Failed)
        assert outcome.error_message == "the artifact store is full"
        assert outcome.retry_delay_ms is not None
        assert log_of(bench, outcome) == b"written\n"
        kept = [path for path in (bench.folder / "artifacts").rglob("*") if path.is_file()]
        assert [path.name for path in kept] == [outcome.logs_ref]


def test_a_work_folder_that_cannot_be_made_is_worth_a_retry(bench: Bench) -> None:
    bench.settings.work_dir.write_text("no folder")
    outcome = bench.run(claim("command", {"argv": ["true"]}, retry=RetryPolicy(max_attempts=2)))
    assert isinstance(outcome, Failed)
    assert outcome.error_message.startswith("the worker cannot make a work folder: ")
    assert outcome.retry_delay_ms is not None


def test_when_memory_runs_out_the_command_goes_before_the_worker(bench: Bench) -> None:
    outcome = bench.succeed(
        "command", shell("cat /proc/self/oom_score_adj /proc/$PPID/oom_score_adj", captureStdout=True)
    )
    own = Path("/proc/self/oom_score_adj").read_text().strip()
    assert outcome.outputs["stdout"] == f"1000\n{own}"


def test_a_killed_keeper_leaves_no_process_of_its_step(bench: Bench, tmp_path: Path) -> None:
    script = ESCAPING.format(folder=tmp_path) + f"echo $PPID > {tmp_path}/keeper; exec sleep 600"
    running = bench.begin(claim("command", shell(script), retry=RetryPolicy(max_attempts=2)))
    escaped = number_in(tmp_path / "escaped")
    os.kill(number_in(tmp_path / "keeper"), signal.SIGKILL)
    outcome = running.outcome(within=ENDS_WITHIN_S)
    assert isinstance(outcome, Failed)
    assert outcome.retry_delay_ms is not None
    assert not is_running(escaped)


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
