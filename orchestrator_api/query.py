"""Read query parameters and path parts: each is known, given once, and of its form.

``check`` looks at all of them before the handler is called, so that one refusal names
all that are wrong; the handlers then read those that they use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar
from uuid import UUID

from werkzeug.datastructures import MultiDict

from orchestrator_api.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from shared.domain import versions
from shared.domain.event_stream import Cursor
from shared.domain.models import DagId, RunId, Sha256, StepId
from shared.domain.states import RunStatus
from shared.domain.step_rules import ID_PATTERN
from shared.errors import InvalidArgument, InvalidInput, Problem

UUID_PATTERN = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
HASH_PATTERN = "[0-9a-f]{64}"
TIME_PATTERN = (
    "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})"
)
ACTION_PATTERN = "[a-z]{1,32}[.][a-z]{1,32}"

_NAME = re.compile(ID_PATTERN)
_UUID = re.compile(UUID_PATTERN)
_HASH = re.compile(HASH_PATTERN)
_TIMESTAMP = re.compile(TIME_PATTERN)
_ACTION = re.compile(ACTION_PATTERN)
_ATTEMPT = re.compile(r"[1-9][0-9]{0,8}")
_PAGE_SIZE = re.compile(r"[0-9]{1,3}")

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


def check(args: MultiDict[str, str], known: frozenset[str], path: Mapping[str, str]) -> None:
    """Refuse parameters that the route does not have, those given twice, and all that are not of their form.

    ``path`` are the parts of the path. Raises InvalidArgument with a problem for each.
    """
    problems = [Problem(name, "unknown query parameter") for name in args if name not in known]
    problems += [Problem(name, "given more than once") for name in known if len(args.getlist(name)) > 1]
    given = [(name, text) for name, text in args.items() if name in known]
    given += [(_NAMES.get(part, part), text) for part, text in path.items()]
    for name, text in given:
        try:
            _READERS.get(name, _anything)(name, text)
        except InvalidArgument as error:
            problems += error.problems
    if len(problems) == 1 and (field := problems[0].field) in dict(given):
        raise InvalidArgument(f"{field} {problems[0].message}", problems)
    if problems:
        raise InvalidArgument("the path or the query does not fit this route", problems)


def optional(args: MultiDict[str, str], name: str, read: Callable[[str, str], T]) -> T | None:
    """Read the parameter ``name`` with ``read``; ``None`` when it is left out."""
    text = args.get(name)
    return None if text is None else read(name, text)


def page_size(args: MultiDict[str, str]) -> int:
    """Read ``page_size``: 1 to 500, 50 when left out."""
    size = optional(args, "page_size", _page_size)
    return DEFAULT_PAGE_SIZE if size is None else size


def _page_size(name: str, text: str) -> int:
    size = int(text) if _PAGE_SIZE.fullmatch(text) else 0
    if not 1 <= size <= MAX_PAGE_SIZE:
        raise _refusal(name, f"must be an integer from 1 to {MAX_PAGE_SIZE}")
    return size


def dag_id(name: str, text: str) -> DagId:
    """Read a DAG's id."""
    if _NAME.fullmatch(text) is None:
        raise _refusal(name, f"must match {ID_PATTERN}")
    return DagId(text)


def step_id(name: str, text: str) -> StepId:
    """Read a step's id."""
    return StepId(dag_id(name, text))


def version(name: str, text: str) -> str:
    """Read a version."""
    try:
        versions.parse(text)
    except InvalidInput as error:
        raise _refusal(name, error.problems[0].message) from error
    return text


def run_id(name: str, text: str) -> RunId:
    """Read a run's id."""
    if _UUID.fullmatch(text) is None:
        raise _refusal(name, "must be a UUID")
    return RunId(UUID(text))


def sha256(name: str, text: str) -> Sha256:
    """Read a hash."""
    if _HASH.fullmatch(text) is None:
        raise _refusal(name, "must be 64 lowercase hex digits")
    return Sha256(text)


def action(name: str, text: str) -> str:
    """Read the name of a change, as the audit trail has it."""
    if _ACTION.fullmatch(text) is None:
        raise _refusal(name, f"must match ^{ACTION_PATTERN}$")
    return text


def cursor(name: str, text: str) -> Cursor:
    """Read a cursor of the event stream; ``0`` is the place before the first event."""
    read = Cursor.parse(text)
    if read is None:
        raise _refusal(name, "must be a cursor of the stream, or 0")
    return read


def flag(name: str, text: str) -> bool:
    """Read ``true`` or ``false``."""
    if text not in ("true", "false"):
        raise _refusal(name, "must be true or false")
    return text == "true"


def attempt(name: str, text: str) -> int:
    """Read the number of an attempt."""
    if _ATTEMPT.fullmatch(text) is None:
        raise _refusal(name, "must be an integer from 1 on")
    return int(text)


def timestamp(name: str, text: str) -> datetime:
    """Read an ISO-8601 time that names its offset."""
    try:
        if _TIMESTAMP.fullmatch(text):
            return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        pass  # The digits fit the pattern but name no time (month 13): refused below, like any other text.
    raise _refusal(name, "must be a time like 2026-11-21T23:04:05.123Z")


def one_of(choices: type[E]) -> Callable[[str, str], E]:
    """Make the reader of a member of ``choices``."""

    def read(name: str, text: str) -> E:
        try:
            return choices(text)
        except ValueError as error:
            raise _refusal(name, f"must be one of {', '.join(choices)}") from error

    return read


def _anything(_name: str, text: str) -> str:
    return text


def _refusal(name: str, message: str) -> InvalidArgument:
    return InvalidArgument(f"{name} {message}", [Problem(name, message)])


_NAMES: Mapping[str, str] = MappingProxyType(
    {"dag_id": "dagId", "version": "version", "run_id": "runId", "step_id": "stepId", "sha256": "hash"}
)
"""What the parts of a path are called outside."""

_READERS: Mapping[str, Callable[[str, str], object]] = MappingProxyType(
    {
        "dagId": dag_id,
        "version": version,
        "runId": run_id,
        "stepId": step_id,
        "hash": sha256,
        "action": action,
        "active": flag,
        "after": cursor,
        "status": one_of(RunStatus),
        "from": timestamp,
        "to": timestamp,
        "page_size": _page_size,
    }
)
"""How each parameter is read. A name means the same on every route that has it; others may be anything."""
