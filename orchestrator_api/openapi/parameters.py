"""The parameters of paths and queries, by name: the same everywhere, unless an operation says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from orchestrator_api import query
from orchestrator_api.docs_page import ASSETS
from orchestrator_api.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, MAX_TOKEN_CHARS
from orchestrator_api.schemas.patterns import exactly
from shared.domain import versions
from shared.domain.event_stream import CURSOR_PATTERN
from shared.domain.models import JsonObject
from shared.domain.states import RunStatus
from shared.domain.step_rules import ID_PATTERN

_TIME: Final[JsonObject] = {
    "type": "string",
    "format": "date-time",
    "pattern": exactly(query.TIME_PATTERN),
}
_DAG_ID: Final[JsonObject] = {"type": "string", "pattern": ID_PATTERN}

PATH: Final[Mapping[str, JsonObject]] = MappingProxyType(
    {
        "dag_id": {
            "name": "dagId",
            "description": "The name of a DAG.",
            "schema": _DAG_ID,
            "example": "policy-refresh",
        },
        "version": {
            "name": "version",
            "description": "A version, by SemVer 2.0.0.",
            "schema": {"type": "string", "maxLength": versions.MAX_LENGTH, "pattern": versions.PATTERN},
            "example": "1.4.0",
        },
        "run_id": {
            "name": "runId",
            "description": "The id of a run.",
            "schema": {"type": "string", "format": "uuid", "pattern": exactly(query.UUID_PATTERN)},
            "example": "019bb2f0-5c3e-7c1d-8a54-3f2e9d0c7b61",
        },
        "step_id": {
            "name": "stepId",
            "description": "The id of a step within its DAG.",
            "schema": _DAG_ID,
            "example": "fetch",
        },
        "sha256": {
            "name": "hash",
            "description": "The SHA-256 of the bytes.",
            "schema": {"type": "string", "pattern": exactly(query.HASH_PATTERN)},
            "example": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        },
        "asset": {
            "name": "asset",
            "description": "A file that the page loads.",
            "schema": {"type": "string", "enum": list(ASSETS)},
        },
    }
)

QUERY: Final[Mapping[str, JsonObject]] = MappingProxyType(
    {
        "page_size": {
            "description": "How many items a page has at most.",
            "schema": {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_PAGE_SIZE,
                "default": DEFAULT_PAGE_SIZE,
            },
        },
        "page_token": {
            "description": "The `next_page_token` of the page before, with the same filters.",
            "schema": {"type": "string", "minLength": 1, "maxLength": MAX_TOKEN_CHARS},
        },
        "dagId": {"description": "Only of this DAG.", "schema": _DAG_ID},
        "after": {
            "description": "Only events behind this cursor, and `0` for all; from now on when left out.",
            "schema": {"type": "string", "pattern": exactly(CURSOR_PATTERN)},
            "example": "0",
        },
        "runId": {
            "description": "Only of this run.",
            "schema": {"type": "string", "format": "uuid", "pattern": exactly(query.UUID_PATTERN)},
        },
        "active": {
            "description": "Only those that take new runs, or only those that do not.",
            "schema": {"type": "boolean"},
        },
        "status": {
            "description": "Only in this state.",
            "schema": {"type": "string", "enum": [status.value for status in RunStatus]},
        },
        "action": {
            "description": "Only this kind of change.",
            "schema": {"type": "string", "pattern": exactly(query.ACTION_PATTERN)},
            "example": "run.cancel",
        },
        "from": {
            "description": "Only from this time on.",
            "schema": _TIME,
            "example": "2026-11-21T00:00:00Z",
        },
        "to": {"description": "Only before this time.", "schema": _TIME, "example": "2026-11-22T00:00:00Z"},
    }
)
