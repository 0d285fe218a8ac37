"""The fields of responses. All are always present; ``null`` says that one may be ``null``."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from marshmallow import Schema, fields

from orchestrator_api import query
from orchestrator_api.schemas.fields import KEYWORDS
from orchestrator_api.schemas.patterns import exactly
from shared.domain.models import Json
from shared.domain.step_rules import ID_PATTERN

Field = fields.Field[Any]
Fields = Mapping[str, Field]

_TIME = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z$"


def text(*, null: bool = False, **keywords: Json) -> Field:
    """Declare a text."""
    return fields.String(required=True, allow_none=null, metadata={KEYWORDS: keywords})


def time(*, null: bool = False) -> Field:
    """Declare a time in UTC with milliseconds."""
    return text(null=null, format="date-time", pattern=_TIME)


def sha256(*, null: bool = False) -> Field:
    """Declare a hash."""
    return text(null=null, pattern=exactly(query.HASH_PATTERN))


def run_id() -> Field:
    """Declare the id of a run."""
    return text(format="uuid")


def name() -> Field:
    """Declare the id of a DAG or a step."""
    return text(pattern=ID_PATTERN)


def one_of(choices: type[StrEnum], *, null: bool = False) -> Field:
    """Declare a member of ``choices``."""
    members: list[Json] = [choice.value for choice in choices]
    return text(null=null, enum=[*members, None] if null else members)


def count(*, least: int = 0, null: bool = False) -> Field:
    """Declare an integer of at least ``least``."""
    return fields.Integer(
        required=True, strict=True, allow_none=null, metadata={KEYWORDS: {"minimum": least}}
    )


def number(*, least: int = 0, null: bool = False) -> Field:
    """Declare a number of at least ``least``."""
    kinds: list[Json] = ["number", "null"] if null else ["number"]
    return fields.Raw(required=True, allow_none=null, metadata={KEYWORDS: {"type": kinds, "minimum": least}})


def flag() -> Field:
    """Declare ``true`` or ``false``."""
    return fields.Boolean(required=True)


def free_form(*, null: bool = False) -> Field:
    """Declare an object that the caller or a plugin chose the members of."""
    kinds: list[Json] = ["object", "null"] if null else ["object"]
    return fields.Raw(required=True, allow_none=null, metadata={KEYWORDS: {"type": kinds}})


def many(of: type[Schema], *, required: bool = True) -> Field:
    """Declare a list of objects."""
    return fields.List(fields.Nested(of), required=required)


def schema(name: str, members: Fields) -> type[Schema]:
    """Make a schema of these members and no others."""
    return Schema.from_dict(dict(members), name=name)


def page_of(items: type[Schema], *, name: str) -> type[Schema]:
    """Declare a page of a list; the token is absent on the last one."""
    token = fields.String(metadata={KEYWORDS: {"minLength": 1}})
    return schema(name, {"items": many(items), "next_page_token": token})
