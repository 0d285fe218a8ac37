from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from shared.domain import hashing
from shared.domain.models import (
    Ancestor,
    ArtifactRef,
    Failed,
    Json,
    JsonObject,
    Released,
    RetryPolicy,
    Sha256,
    StepId,
    Stopped,
    Succeeded,
)
from shared.domain.states import ErrorCode, StepStatus
from shared.errors import ArtifactNotFound, StoreUnavailable
from shared.plugins import (
    PluginFailed,
    PluginResult,
    PluginStopped,
    PluginSucceeded,
    StepContext,
    Stop,
    StopReason,
)
from tests.support.attempts import RUN_ID, TRACE_ID, Bench, claim

Script = Callable[[JsonObject, StepContext], PluginResult | JsonObject | None]


class ScriptedPlugin:
    """Does what a test tells it to, as somebody else's plugin might."""

    name: ClassVar[str] = "scripted"
    version: ClassVar[str] = "1.0.0"
    schema: ClassVar[JsonObject] = {"type": "object"}
    needs_network: ClassVar[bool] = False
    retryable: ClassVar[str] = "As the test says."

    def run(self, params: JsonObject, context: StepContext) -> PluginResult:
        result = SCRIPTS[str(params["do"])](params, context)
        if isinstance(result, PluginFailed | PluginStopped | PluginSucceeded):
            return result
        return PluginSucceeded(outputs=result or {})


def _fail(params: JsonObject, context: StepContext) -> PluginResult:
    return PluginFailed(
        error_code=ErrorCode.EXIT_STATUS,
        message=str(params["message"]),
        retryable=params.get("retryable") is True,
    )


def _raise(error: BaseException) -> Script:
    def script(params: JsonObject, context: StepContext) -> None:
        raise error

    return script


def _file(params: JsonObject, context: StepContext) -> PluginResult:
    (context.work_dir() / "scratch").write_text("private")
    artifact = context.put_artifact("report.json", b"{}")
    return PluginSucceeded(outputs={}, artifacts=(artifact,) * int(str(params.get("times", 1))))


def _name(params: JsonObject, context: StepContext) -> None:
    context.put_artifact(str(params["name"]), b"")


def _fetch(params: JsonObject, context: StepContext) -> JsonObject:
    context.fetch_artifact(Sha256(str(params["hash"])), context.work_dir() / "input")
    return {"text": (context.work_dir() / "input").read_text()}


def _look(params: JsonObject, context: StepContext) -> JsonObject:
    return {
        "who": [context.tenant, str(context.run_id), context.step_id, context.attempt],
        "trace": context.traceparent[:36],
        "same": context.traceparent == context.traceparent,
    }


def _give_up(params: JsonObject, context: StepContext) -> PluginResult:
    return PluginStopped()


def _outputs(params: JsonObject, context: StepContext) -> JsonObject:
    return {"value": SPECIAL[str(params["value"])]}


def _log(params: JsonObject, context: StepContext) -> None:
    context.log.line(str(params["text"]))


SCRIPTS: dict[str, Script] = {
    "fail": _fail,
    "give up": _give_up,
    "raise": _raise(RuntimeError("an unforeseen case")),
    "exit": _raise(SystemExit(3)),
    "lack": _raise(OSError(errno.ENOSPC, "No space left on device")),
    "store down": _raise(StoreUnavailable("the artifact store is full")),
    "outputs": _outputs,
    "log": _log,
    "file": _file,
    "name": _name,
    "fetch": _fetch,
    "look": _look,
}

SPECIAL: dict[str, Json] = {
    "nan": float("nan"),
    "huge": 2**60,
    "nul": {"deep": ["a\0b"]},
    "nul key": {"a\0b": 1},
    "backslash": "\\u0000",
    "surrogate": "\ud800",
    "large": "x" * 300_000,
}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(folder=tmp_path, plugins=[ScriptedPlugin()])


def scripted(**params: Json) -> JsonObject:
    return params


def test_a_success_carries_the_hashes_of_what_went_in_and_came_out(bench: Bench) -> None:
    outcome = bench.run(claim("noop", {"n": "${{ inputs.n + 1 }}"}, inputs={"n": 1}))
    info = bench.catalog.find("noop")
    assert info is not None
    assert outcome == Succeeded(
        outputs={"n": 2},
        outputs_hash=hashing.hash_json({"n": 2}),
        inputs_hash=hashing.hash_json({"digest": info.digest, "uses": "noop", "with": {"n": 2}}),
    )


def test_a_noop_writes_nothing_at_all(bench: Bench, tmp_path: Path) -> None:
    bench.succeed("noop", {})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not bench.settings.work_dir.exists()


def test_with_is_rendered_from_the_outputs_of_ancestors(bench: Bench) -> None:
    ancestors = {StepId("first"): Ancestor(status=StepStatus.SUCCEEDED, outputs={"list": [1, 2]})}
    outcome = bench.run(claim("noop", {"all": "${{ steps.first.outputs.list }}"}, ancestors=ancestors))
    assert isinstance(outcome, Succeeded)
    assert outcome.outputs == {"all": [1, 2]}


@pytest.mark.parametrize(
    ("params", "when"),
    [
        ({"a": "${{ inputs.absent }}"}, None),
        ({}, "inputs.absent == 1"),
        ({}, "inputs.n == 2"),
        ({"a": "${{ inputs.n * 9007199254740991 * 2 }}"}, None),
    ],
)
def test_an_expression_that_gives_no_value_fails_the_step_for_good(
    bench: Bench, params: JsonObject, when: str | None
) -> None:
    step = claim("noop", params, when=when, inputs={"n": 1}, retry=RetryPolicy(max_attempts=5))
    outcome = bench.run(step)
    assert isinstance(outcome, Failed)
    assert (outcome.error_code, outcome.retry_delay_ms) == (ErrorCode.EXPRESSION_ERROR, None)


def test_with_that_breaks_the_schema_once_rendered_fails_and_names_the_place(bench: Bench) -> None:
    outcome = bench.run(claim("sleep", {"ms": "${{ inputs.ms }}"}, inputs={"ms": "long"}))
    assert isinstance(outcome, Failed)
    assert outcome.error_code is ErrorCode.PLUGIN_ERROR
    assert 'ms: the value is not of type "integer"' in outcome.error_message


def test_a_plugin_that_this_worker_lacks_may_be_on_another(bench: Bench) -> None:
    outcome = bench.run(claim("absent@1.0.0", {}, retry=RetryPolicy(max_attempts=2)))
    assert isinstance(outcome, Failed)
    assert outcome.error_code is ErrorCode.PLUGIN_ERROR
    assert outcome.retry_delay_ms is not None


@pytest.mark.parametrize(
    ("retryable", "tries", "delay"), [(True, 1, 100), (True, 2, 300), (True, 3, None), (False, 1, None)]
)
def test_a_retry_needs_a_failure_worth_it_and_a_try_left(
    bench: Bench, retryable: bool, tries: int, delay: int | None
) -> None:
    policy = RetryPolicy(max_attempts=3, initial_delay_ms=100, multiplier=3)
    step = claim(
        "scripted", scripted(do="fail", message="no", retryable=retryable), retry=policy, tries=tries
    )
    outcome = bench.run(step)
    assert isinstance(outcome, Failed)
    assert (outcome.error_code, outcome.retry_delay_ms) == (ErrorCode.EXIT_STATUS, delay)


@pytest.mark.parametrize(
    ("do", "retried", "told"),
    [
        ("raise", False, "RuntimeError: an unforeseen case"),
        ("exit", False, "SystemExit: 3"),
        ("lack", True, "No space left"),
        ("store down", True, "the artifact store is full"),
        ("give up", False, "nobody asked"),
    ],
)
def test_whatever_a_plugin_raises_is_the_failure_of_its_step(
    bench: Bench, do: str, retried: bool, told: str
) -> None:
    outcome = bench.run(claim("scripted", scripted(do=do), retry=RetryPolicy(max_attempts=2)))
    assert isinstance(outcome, Failed)
    assert outcome.error_code is ErrorCode.PLUGIN_ERROR
    assert told in outcome.error_message
    assert (outcome.retry_delay_ms is not None) is retried


def test_the_traceback_of_a_plugin_stands_in_its_log(bench: Bench) -> None:
    outcome = bench.fail("scripted", scripted(do="raise"))
    assert outcome.logs_ref is not None
    assert b"Traceback" in bench.read(outcome.logs_ref)
    assert [artifact.name for artifact in outcome.artifacts] == ["log"]


@pytest.mark.parametrize("value", ["nan", "huge", "nul", "nul key", "surrogate"])
def test_outputs_that_the_ledger_cannot_keep_fail_the_step(bench: Bench, value: str) -> None:
    outcome = bench.fail("scripted", scripted(do="outputs", value=value))
    assert outcome.error_code is ErrorCode.PLUGIN_ERROR
    assert "cannot be recorded" in outcome.error_message


def test_a_backslash_before_u0000_is_no_nul(bench: Bench) -> None:
    assert bench.succeed("scripted", scripted(do="outputs", value="backslash")).outputs == {
        "value": "\\u0000"
    }


def test_outputs_over_the_limit_fail_the_step_for_good(bench: Bench) -> None:
    step = claim("scripted", scripted(do="outputs", value="large"), retry=RetryPolicy(max_attempts=3))
    outcome = bench.run(step)
    assert isinstance(outcome, Failed)
    assert (outcome.error_code, outcome.retry_delay_ms) == (ErrorCode.OUTPUTS_TOO_LARGE, None)


def test_a_message_is_bounded_and_can_be_recorded(bench: Bench) -> None:
    outcome = bench.fail("scripted", scripted(do="fail", message="a\0b" + "x" * 10_000))
    assert outcome.error_message.startswith("a\ufffdbxxx")
    assert len(outcome.error_message) == 2_000


def test_what_was_logged_is_an_artifact_of_the_attempt(bench: Bench) -> None:
    outcome = bench.succeed("scripted", scripted(do="log", text="hello"))
    assert outcome.logs_ref is not None
    assert bench.read(outcome.logs_ref) == b"hello\n"
    assert outcome.artifacts == (
        ArtifactRef(
            name="log", sha256=outcome.logs_ref, size_bytes=6, content_type="text/plain; charset=utf-8"
        ),
    )


def test_a_log_over_the_limit_is_cut_with_a_mark(bench: Bench) -> None:
    outcome = bench.succeed("scripted", scripted(do="log", text="x" * bench.settings.max_log_bytes))
    text = bench.read(outcome.logs_ref)
    assert text.startswith(b"x" * bench.settings.max_log_bytes)
    assert text.endswith(b"[log cut here: 1 more bytes were written]\n")


def test_the_work_folder_is_gone_after_the_attempt(bench: Bench) -> None:
    outcome = bench.succeed("scripted", scripted(do="file"))
    assert [(a.name, a.size_bytes, a.content_type) for a in outcome.artifacts] == [
        ("report.json", 2, "application/json")
    ]
    assert bench.settings.work_dir.exists()
    assert bench.work_folders() == []


def test_two_artifacts_of_one_name_are_refused(bench: Bench) -> None:
    assert "same name" in bench.fail("scripted", scripted(do="file", times=2)).error_message


@pytest.mark.parametrize(
    "name", ["", ".", "/etc/passwd", "../up", "a/../b", "a//b", "./a", "a/", "log", "a\nb", "x" * 1025]
)
def test_an_artifact_needs_a_plain_relative_name(bench: Bench, name: str) -> None:
    bench.succeed("scripted", scripted(do="name", name="deep/er.txt"))
    assert "artifact name" in bench.fail("scripted", scripted(do="name", name=name)).error_message


def test_only_artifacts_of_the_tenant_can_be_fetched(bench: Bench) -> None:
    sha256, _ = bench.store.put_bytes(b"of somebody")
    foreign = bench.fail("scripted", scripted(do="fetch", hash=sha256))
    absent = bench.fail("scripted", scripted(do="fetch", hash="0" * 64))
    assert ArtifactNotFound.__name__ in foreign.error_message
    assert foreign.error_message.replace(sha256, "0" * 64) == absent.error_message
    bench.owned.add(sha256)
    assert bench.succeed("scripted", scripted(do="fetch", hash=sha256)).outputs == {"text": "of somebody"}


def test_a_plugin_knows_where_it_is(bench: Bench) -> None:
    assert bench.succeed("scripted", scripted(do="look")).outputs == {
        "who": ["acme", str(RUN_ID), "work", 1],
        "trace": f"00-{TRACE_ID}-",
        "same": True,
    }


def test_a_stopped_sleep_ends_at_once(bench: Bench) -> None:
    running = bench.begin(claim("sleep", {"ms": 60_000}))
    running.stop.request(StopReason.CANCELLED)
    assert running.outcome() == Stopped()


@pytest.mark.parametrize(
    ("reason", "kind"),
    [(StopReason.CANCELLED, Stopped), (StopReason.RELEASED, Released), (StopReason.LEASE_LOST, Released)],
)
def test_the_reason_of_the_stop_decides_what_is_recorded(
    bench: Bench, reason: StopReason, kind: type[Stopped | Released]
) -> None:
    stop = Stop()
    stop.request(reason)
    assert bench.run(claim("sleep", {"ms": 60_000}), stop) == kind()


def test_a_time_out_is_a_failure_worth_a_retry(bench: Bench) -> None:
    outcome = bench.run(claim("sleep", {"ms": 60_000}, timeout_ms=10, retry=RetryPolicy(max_attempts=2)))
    assert isinstance(outcome, Failed)
    assert outcome.error_code is ErrorCode.TIMEOUT
    assert outcome.retry_delay_ms == 1_000
    assert "10 ms" in outcome.error_message


def test_a_short_sleep_succeeds(bench: Bench) -> None:
    assert bench.succeed("sleep", {"ms": 1}).outputs == {}
