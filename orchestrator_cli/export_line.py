"""Read the lines of an export: JSON with one reading only, taken apart member by member."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NoReturn, TypeVar

from shared.domain.hashing import NotCanonical, hash_json
from shared.domain.models import Json, JsonObject

MAX_DEPTH: Final = 128
"""Deeper than any value that is recorded, and all that stands around it."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHOWN_CHARS = 60

E = TypeVar("E", bound=StrEnum)


class Wrong(Exception):
    """Something in a line is not as it must be; the message says what, in ASCII."""


def shown(value: object) -> str:
    """Write what a file holds so that it can do no harm to a terminal."""
    text = ascii(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def parse(line: bytes) -> Mapping[str, Json]:
    """Read one line, which must be a JSON object that every reader understands alike."""
    try:
        value: Json = json.loads(line.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise Wrong(f"is not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise Wrong(f"is not JSON: {error.msg} at column {error.colno}") from None
    except ValueError:
        raise Wrong("holds an integer of thousands of digits") from None
    except RecursionError:
        raise Wrong(f"is nested deeper than {MAX_DEPTH} levels") from None
    if not isinstance(value, dict):
        raise Wrong("is not a JSON object")
    _refuse_depth(value)
    return value


def hash_of(value: Json, what: str) -> str:
    """Hash a value, which must have a canonical form."""
    try:
        return hash_json(value)
    except NotCanonical as error:
        raise Wrong(f"{what} cannot be hashed: {error}") from None


@dataclass(frozen=True, slots=True)
class Part:
    """An object within a line. Each member is asked for by the form that it must have."""

    members: JsonObject
    place: str

    @staticmethod
    def of(value: Json, place: str) -> Part:
        """Take a value that must be an object."""
        if not isinstance(value, Mapping):
            raise Wrong(f"{place} is not an object")
        return Part(value, place)

    def wrong(self, what: str) -> NoReturn:
        """Say what is wrong here."""
        raise Wrong(f"{self.place}: {what}")

    def expect(self, name: str, value: Json) -> None:
        """Want exactly this value; ``1``, ``1.0`` and ``true`` are three values."""
        found = self._member(name)
        if type(found) is not type(value) or found != value:
            self.wrong(f"{name} is {shown(found)}, not {shown(value)}")

    def text(self, name: str, form: re.Pattern[str] | None = None) -> str:
        found = self._member(name)
        if not isinstance(found, str) or (form is not None and form.fullmatch(found) is None):
            self.wrong(f"{name} is {shown(found)}")
        return found

    def sha256(self, name: str) -> str:
        return self.text(name, _SHA256)

    def integer(self, name: str) -> int:
        found = self._member(name)
        if not isinstance(found, int) or isinstance(found, bool):
            self.wrong(f"{name} is {shown(found)}")
        return found

    def one_of(self, name: str, choices: type[E]) -> E:
        found = self.text(name)
        if found not in {str(choice) for choice in choices}:
            self.wrong(f"{name} is {shown(found)}")
        return choices(found)

    def is_null(self, name: str) -> bool:
        return self._member(name) is None

    def object(self, name: str) -> JsonObject:
        return Part.of(self._member(name), f"{self.place}: {name}").members

    def list(self, name: str) -> list[Json]:
        found = self._member(name)
        if not isinstance(found, list):
            self.wrong(f"{name} is not a list")
        return found

    def _member(self, name: str) -> Json:
        if name not in self.members:
            self.wrong(f"{name} is missing")
        return self.members[name]


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise Wrong(f"has an object with the key {shown(twice)} twice")
    return members


def _constant(name: str) -> Json:
    raise Wrong(f"holds {name}, which is not JSON")


def _refuse_depth(value: Json) -> None:
    level: list[Json] = [value]
    for _ in range(MAX_DEPTH + 1):
        if not level:
            return
        deeper: list[Json] = []
        for item in level:
            if isinstance(item, dict):
                deeper.extend(item.values())
            elif isinstance(item, list):
                deeper.extend(item)
        level = deeper
    raise Wrong(f"is nested deeper than {MAX_DEPTH} levels")
