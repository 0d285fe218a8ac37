"""JSON to the values that CEL computes with, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from shared.domain.cel_source import ExpressionError
from shared.domain.hashing import MAX_DEPTH, MAX_SAFE_INTEGER
from shared.domain.models import Json

Value = object
"""What the library hands over: JSON, and bytes, times and durations."""


def to_cel(value: Json, depth: int = 0) -> Json:
    """Copy JSON so that numbers that are equal in JSON are equal, and of one type, in CEL.

    ``1`` and ``1.0`` have one canonical form, and a store may give back either, but CEL
    refuses to add the second to an integer. Whole numbers that a float holds
    exactly become integers, larger ones floats.
    """
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return _number(value)
    if depth >= MAX_DEPTH:
        raise ExpressionError(f"a value is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {key: to_cel(member, depth + 1) for key, member in value.items()}
    return [to_cel(member, depth + 1) for member in value]


def from_cel(value: Value, depth: int = 0) -> Json:
    """Check that a result is JSON that every program reads alike. Raises ``ExpressionError``."""
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) > MAX_SAFE_INTEGER:
            raise ExpressionError("the value is an integer beyond 2^53 - 1")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ExpressionError(f"the value is {value}, which JSON cannot hold")
        return _number(value)
    if depth >= MAX_DEPTH:
        raise ExpressionError(f"the value is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, list):
        return [from_cel(member, depth + 1) for member in value]
    if isinstance(value, dict):
        return {_key(key): from_cel(member, depth + 1) for key, member in value.items()}
    raise ExpressionError(f"the value is {kind(value)}, which JSON cannot hold")


def kind(value: Value) -> str:
    """Name the type of a value in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, bytes):
        return "bytes"
    if isinstance(value, datetime):
        return "a timestamp"
    if isinstance(value, timedelta):
        return "a duration"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, Sequence) else "of another type"


def _number(value: float) -> int | float:
    if abs(value) > MAX_SAFE_INTEGER:
        return float(value)
    return int(value) if value == int(value) else value


def _key(key: Value) -> str:
    if not isinstance(key, str):
        raise ExpressionError("the value is an object with a key that is no text")
    return key
