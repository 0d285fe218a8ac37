"""Canonical JSON (RFC 8785) and SHA-256 over it: what is equal has one hash."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from decimal import Decimal

import orjson
import rfc8785

from shared.domain.models import Json, Sha256

MAX_DEPTH = 100
MAX_SAFE_INTEGER = 2**53 - 1

_FIRST_REORDERED = "\ud800"
"""From here on the order of UTF-16 code units, which RFC 8785 sorts by, is not that of code points."""


class NotCanonical(ValueError):
    """The value has no canonical form: no JSON, or JSON that two programs may read differently."""


def canonical(value: Json) -> bytes:
    """Give the one byte string that RFC 8785 has for ``value``.

    Refused with ``NotCanonical``: NaN and infinities, lone surrogates, keys that are no
    text, more than ``MAX_DEPTH`` levels, other types, and integers beyond
    ``MAX_SAFE_INTEGER``, unless they are how a float is written: ``1e20`` comes back from
    a store as an integer, and is the same value still.
    """
    try:
        if _sorts_plainly(value):
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        return rfc8785.dumps(_with_floats(value))
    except (UnicodeEncodeError, orjson.JSONEncodeError):
        # The only thing that either could still refuse.
        raise NotCanonical("a text has half of a surrogate pair") from None
    except (rfc8785.CanonicalizationError, OverflowError) as error:
        raise NotCanonical(str(error)) from None


def hash_json(value: Json) -> Sha256:
    """Hash the canonical form of ``value``."""
    return hash_bytes(canonical(value))


def hash_bytes(data: bytes) -> Sha256:
    """Hash ``data`` as it is."""
    return Sha256(hashlib.sha256(data).hexdigest())


def _sorts_plainly(root: Json) -> bool:
    """Check ``root``, and tell whether orjson, sorting by key, writes its canonical form.

    It does, and thirty times faster, unless there is a float (ECMAScript writes
    them its own way), a key whose place depends on the order of UTF-16, or one of a
    class derived from ``str``, which orjson does not take.
    """
    plainly = True
    level: list[Json] = [root]
    for _ in range(MAX_DEPTH + 1):
        if not level:
            return plainly
        deeper: list[Json] = []
        for value in level:
            if isinstance(value, str):
                continue
            if isinstance(value, dict):
                plainly = _keys_sort_plainly(value) and plainly
                deeper.extend(value.values())
            elif isinstance(value, (list, tuple)):
                deeper.extend(value)
            else:
                plainly = _is_plain(value) and plainly
        level = deeper
    if level:
        raise NotCanonical(f"nested deeper than {MAX_DEPTH} levels")
    return plainly


def _keys_sort_plainly(value: Iterable[object]) -> bool:
    plainly = True
    for key in value:
        if not isinstance(key, str):
            raise NotCanonical("a key is no text")
        if type(key) is not str or (not key.isascii() and max(key) >= _FIRST_REORDERED):
            plainly = False
    return plainly


def _is_plain(value: object) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, float):
        return False
    if not isinstance(value, int):
        raise NotCanonical(f"{type(value).__name__} is no JSON type")
    if abs(value) <= MAX_SAFE_INTEGER:
        return True
    if abs(value) > sys.float_info.max or Decimal(repr(float(value))) != value:
        raise NotCanonical("an integer is beyond 2^53 - 1")
    return False


def _with_floats(value: Json) -> Json:
    """Copy a checked value, its large integers as the floats that they are."""
    if isinstance(value, dict):
        return {key: _with_floats(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_floats(member) for member in value]
    if isinstance(value, int) and abs(value) > MAX_SAFE_INTEGER:
        return float(value)
    return value
