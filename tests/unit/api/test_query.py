from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from werkzeug.datastructures import MultiDict

from orchestrator_api import query
from orchestrator_api.routes import ROUTES
from shared.domain.states import RunStatus
from shared.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-21T23:04:05.123Z", datetime(2026, 11, 21, 23, 4, 5, 123_000, UTC)),
        ("2026-11-21T23:04:05Z", datetime(2026, 11, 21, 23, 4, 5, 0, UTC)),
        ("2026-11-22T01:04:05.123456+02:00", datetime(2026, 11, 21, 23, 4, 5, 123_456, UTC)),
    ],
)
def test_a_time_is_read_with_its_offset(text: str, moment: datetime) -> None:
    assert query.timestamp("from", text) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-21",
        "2026-11-21T23:04:05",
        "2026-13-21T23:04:05Z",
        "2026-11-21 23:04:05Z",
        "0001-01-01T00:00:00+14:00",
        "1732230245",
        "2026-11-21T23:04:05.1234567Z",
        "\u0662026-11-21T23:04:05Z",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        query.timestamp("from", text)


@pytest.mark.parametrize("text", ["0", "501", "-1", "1.0", "", "x", "1e2", "\u0665", "99999999999999999999"])
def test_a_page_size_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        query.page_size(MultiDict({"page_size": text}))


def test_a_page_size_in_range_is_taken() -> None:
    assert query.page_size(MultiDict()) == 50
    assert query.page_size(MultiDict({"page_size": "1"})) == 1
    assert query.page_size(MultiDict({"page_size": "500"})) == 500


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (query.dag_id, "-a"),
        (query.dag_id, "A"),
        (query.dag_id, "a\n"),
        (query.dag_id, "a" * 129),
        (query.version, "1.0"),
        (query.version, "01.0.0"),
        (query.version, "1.0.0\n"),
        (query.run_id, "abc"),
        (query.run_id, "{01939b3e-7b1c-7cc0-8a3e-000000000000}"),
        (query.run_id, "01939b3e7b1c7cc08a3e000000000000"),
        (query.sha256, "A" * 64),
        (query.sha256, "a" * 63),
        (query.flag, "1"),
        (query.one_of(RunStatus), "done"),
    ],
)
def test_what_is_not_of_its_form_is_refused(read: object, text: str) -> None:
    assert callable(read)
    with pytest.raises(InvalidArgument) as refused:
        read("name", text)
    assert refused.value.problems


def fields_refused(args: list[tuple[str, str]], known: set[str], **path: str) -> list[str]:
    with pytest.raises(InvalidArgument) as refused:
        query.check(MultiDict(args), frozenset(known), path)
    return [problem.field for problem in refused.value.problems]


def test_unknown_and_repeated_parameters_are_refused_by_name() -> None:
    args = [("status", "failed"), ("status", "running"), ("page", "2")]
    assert fields_refused(args, {"status", "page_size"}) == ["page", "status"]


def test_all_that_is_wrong_in_the_path_and_the_query_is_told_at_once() -> None:
    args = [
        ("status", "done"),
        ("from", "now"),
        ("to", "2026-11-21T23:04:05Z"),
        ("page_size", "0"),
        ("x", "1"),
    ]
    known = {"status", "from", "to", "page_size"}
    assert fields_refused(args, known, run_id="1", step_id="A") == [
        "from",
        "page_size",
        "runId",
        "status",
        "stepId",
        "x",
    ]


def test_a_version_in_the_path_is_refused_under_its_name() -> None:
    assert fields_refused([], set(), dag_id="a", version="1") == ["version"]


def test_every_part_of_a_path_is_checked() -> None:
    for route in ROUTES:
        # The name of an asset has no form: any other is not there.
        parts = [part for part in re.findall(r"<part:(\w+)>", route.path) if part != "asset"]
        if parts:
            assert len(fields_refused([], set(), **dict.fromkeys(parts, "$"))) == len(parts)
