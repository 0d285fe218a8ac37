from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import ClassVar

import pytest

from orchestrator_worker.plugins import noop
from orchestrator_worker.plugins.command import CommandPlugin
from orchestrator_worker.plugins.http import HttpPlugin
from orchestrator_worker.plugins.noop import NoopPlugin
from orchestrator_worker.plugins.sleep import SleepPlugin
from shared.domain.models import JsonObject
from shared.errors import Problem
from shared.plugins import (
    Catalog,
    CatalogError,
    PluginResult,
    PluginSucceeded,
    StepContext,
    Stop,
    StopReason,
    load_catalog,
)
from tests.support.eventually import eventually


class StrictPlugin:
    name: ClassVar[str] = "strict"
    version: ClassVar[str] = "2.1.0"
    schema: ClassVar[JsonObject] = {
        "type": "object",
        "properties": {
            "count": {"type": "integer", "minimum": 1},
            "names": {
                "type": "array",
                "items": {"type": "string", "pattern": "^[a-z]+$"},
                "uniqueItems": True,
            },
            "target": {"oneOf": [{"type": "integer"}, {"type": "object", "required": ["id"]}]},
        },
        "required": ["count"],
        "additionalProperties": False,
    }
    needs_network: ClassVar[bool] = False
    retryable: ClassVar[str] = "None."

    def run(self, params: JsonObject, context: StepContext) -> PluginResult:
        return PluginSucceeded(outputs={})


@pytest.fixture
def catalog() -> Catalog:
    return Catalog([StrictPlugin(), NoopPlugin(), SleepPlugin(), CommandPlugin(), HttpPlugin()])


def test_installed_plugins_are_found_by_their_entry_points() -> None:
    names = [info.name for info in load_catalog().infos()]
    assert {"command", "http", "noop", "sleep"} <= set(names)
    assert names == sorted(names)


def test_a_plugin_is_found_by_name_and_by_exact_version(catalog: Catalog) -> None:
    info = catalog.find("strict")
    assert info is not None
    assert (info.name, info.version, info.schema) == ("strict", "2.1.0", StrictPlugin.schema)
    assert catalog.find("strict@2.1.0") == info
    assert catalog.find("strict@2.1") is None
    assert catalog.find("absent") is None
    assert len(catalog.infos()) == 5


class VaguePlugin(StrictPlugin):
    name: ClassVar[str] = "vague"
    pure: ClassVar[str] = "no"


def test_only_who_says_so_is_pure(catalog: Catalog) -> None:
    assert catalog.pure() == {"noop", f"noop@{NoopPlugin.version}"}
    assert Catalog([VaguePlugin()]).pure() == frozenset()


def test_the_digest_is_that_of_the_source(catalog: Catalog) -> None:
    info = catalog.find("noop")
    assert info is not None
    assert noop.__file__ is not None
    assert info.digest == hashlib.sha256(Path(noop.__file__).read_bytes()).hexdigest()


def test_parameters_as_published_are_checked_and_the_place_is_named(catalog: Catalog) -> None:
    assert catalog.check_params("strict", {"count": 1, "names": ["a", "b"]}) == []
    assert catalog.check_params("strict", {"count": 0, "names": ["a", 7]}) == [
        Problem("count", "the value is less than the minimum of 1"),
        Problem("names[1]", 'the value is not of type "string"'),
    ]
    assert [p.field for p in catalog.check_params("strict", {"other": 1})] == ["", ""]


@pytest.mark.parametrize(
    "params",
    [
        {"count": "${{ inputs.n }}"},
        {"count": 1, "names": "${{ inputs.names }}"},
        {"count": 1, "names": ["x${{ inputs.a }}", "X${{ inputs.b }}"]},
        {"count": 1, "names": ["${{ inputs.a }}", "${{ inputs.a }}"]},
        {"count": 1, "target": "${{ inputs.target }}"},
        {"count": 1, "target": {"id": "${{ inputs.id }}"}},
    ],
)
def test_an_expression_passes_for_any_value(catalog: Catalog, params: JsonObject) -> None:
    assert catalog.check_params("strict", params) == []


@pytest.mark.parametrize(
    "params",
    [
        {"names": ["${{ inputs.a }}"]},
        {"count": 1, "other": "${{ inputs.a }}"},
        {"count": ["${{ inputs.a }}"]},
        {"count": 1, "names": ["${{ inputs.a }}", 7]},
    ],
)
def test_what_no_value_of_an_expression_can_mend_is_refused(catalog: Catalog, params: JsonObject) -> None:
    assert catalog.check_params("strict", params) != []


def test_after_rendering_no_text_passes_for_an_expression(catalog: Catalog) -> None:
    assert catalog.check_rendered("strict", {"count": "${{ 1 }}"}) != []


def test_a_long_value_is_not_repeated_in_a_problem(catalog: Catalog) -> None:
    [problem] = catalog.check_params("strict", {"count": "s3cret" * 1_000})
    assert "s3cret" not in problem.message
    assert len(catalog.check_params("strict", {"count": 1, "names": [1] * 500})) == 20


@pytest.mark.parametrize(
    ("uses", "params", "sound"),
    [
        ("sleep", {"ms": 0}, True),
        ("sleep", {"ms": -1}, False),
        ("sleep", {}, False),
        ("noop", {"any": ["thing"]}, True),
        ("command", {"argv": ["true"]}, True),
        ("command", {"argv": []}, False),
        ("command", {"argv": "rm -rf /"}, False),
        ("command", {"argv": ["true"], "env": {"A": 1, "B_2": "x"}}, True),
        ("command", {"argv": ["true"], "env": {"ORCH_RUN_ID": "x"}}, False),
        ("command", {"argv": ["true"], "env": {"A=B": "x"}}, False),
        ("command", {"argv": ["true"], "inputFiles": {"a": "0" * 64}}, True),
        ("command", {"argv": ["true"], "inputFiles": {"a": "no hash"}}, False),
        ("command", {"argv": ["true"], "shell": True}, False),
        ("http", {"url": "https://example.org"}, True),
        ("http", {"url": "https://example.org", "expectStatus": [200, 404]}, True),
        ("http", {"url": "https://example.org", "expectStatus": "2xx"}, False),
        ("http", {"url": "https://example.org", "json": None, "body": "x"}, False),
        ("http", {"url": "https://example.org", "method": "TRACE"}, False),
        ("http", {"url": "https://example.org", "headers": {"A": "b\r\nC: d"}}, False),
        ("http", {"url": "https://example.org", "headers": {"A b": "c"}}, False),
        ("http", {}, False),
    ],
)
def test_the_schemas_of_our_own_plugins(catalog: Catalog, uses: str, params: JsonObject, sound: bool) -> None:
    assert (catalog.check_params(uses, params) == []) is sound


def test_a_catalog_says_which_plugin_cannot_be_used() -> None:
    class Misnamed(StrictPlugin):
        name: ClassVar[str] = "No Name"

    class Unsound(StrictPlugin):
        schema: ClassVar[JsonObject] = {"type": "no such type"}

    with pytest.raises(CatalogError, match="No Name"):
        Catalog([Misnamed()])
    with pytest.raises(CatalogError, match=r"strict.*no JSON Schema"):
        Catalog([Unsound()])
    with pytest.raises(CatalogError, match="two installed packages"):
        Catalog([StrictPlugin(), StrictPlugin()])


def test_the_first_reason_to_stop_stands() -> None:
    assert Stop().reason is None
    stop = Stop()
    stop.request(StopReason.CANCELLED)
    stop.request(StopReason.RELEASED)
    assert stop.reason is StopReason.CANCELLED
    assert stop.wait(60)


def test_a_deadline_is_a_reason_that_nobody_has_to_request() -> None:
    stop = Stop(timeout_seconds=0)
    assert stop.reason is StopReason.TIMEOUT
    assert stop.remaining_seconds() == 0
    assert Stop().remaining_seconds() is None


def test_the_earlier_deadline_holds() -> None:
    stop = Stop(timeout_seconds=100)
    stop.limit_to(1_000)
    left = stop.remaining_seconds()
    assert left is not None
    assert left <= 100
    stop.limit_to(0)
    assert stop.reason is StopReason.TIMEOUT


def test_a_wait_ends_with_the_deadline() -> None:
    stop = Stop(timeout_seconds=0.01)
    assert stop.wait(60)
    assert stop.reason is StopReason.TIMEOUT


def test_a_callback_runs_once_at_the_request_or_at_once_when_late() -> None:
    stop, called = Stop(), []
    stop.call_on_stop(lambda: called.append("early"))
    stop.call_on_stop(lambda: called.append("forgotten"))()
    stop.request(StopReason.CANCELLED)
    stop.request(StopReason.CANCELLED)
    stop.call_on_stop(lambda: called.append("late"))
    assert called == ["early", "late"]


def test_a_deadline_calls_back_without_anybody_waiting() -> None:
    stop, called = Stop(timeout_seconds=0.01), threading.Event()
    stop.call_on_stop(called.set)
    assert eventually(called.is_set)


def test_a_deadline_set_later_calls_back_as_well() -> None:
    stop, called = Stop(), threading.Event()
    stop.call_on_stop(called.set)
    stop.limit_to(0.01)
    assert eventually(called.is_set)


def test_no_timer_is_left_once_the_callbacks_are_taken_back() -> None:
    before = threading.active_count()
    stop = Stop(timeout_seconds=1_000)
    forget = [stop.call_on_stop(lambda: None) for _ in range(2)]
    assert threading.active_count() == before + 1
    for take_back in forget:
        take_back()
    assert eventually(lambda: threading.active_count() == before)


def test_a_callback_that_fails_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("a plugin's mistake")

    stop, called = Stop(), []
    stop.call_on_stop(fail)
    stop.call_on_stop(lambda: called.append(1))
    stop.request(StopReason.CANCELLED)
    assert called == [1]
    assert "a plugin's mistake" in caplog.text
