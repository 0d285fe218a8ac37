"""How much work an expression may do.

The library knows no bound: ``map`` over 40,000 items takes it a minute, with
the interpreter's lock held, and a chain of maps that double their items has no
end. So each macro's range, and each regular expression, passes through a function
of ours that counts what comes. The same functions put an object's keys in order,
which the library gives in another order each time, and refuse to add an object
to a list, which to the library means its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from shared.domain.cel_source import ExpressionError, Path, Reading
from shared.domain.cel_values import Value
from shared.domain.models import Json

MAX_WORK = 20_000_000
"""A unit is about 40 ns on a slow machine, so that a step's expressions take less than a second or so."""

_PER_ITEM = 20
"""What it takes to hand an item over to the library or back; about 100 bytes too, so 100 MB at most."""
_PER_CALL = 100
_CHARACTERS_PER_UNIT = 8
_PER_TOKEN = 10
_ADDEND = "addend_"
_PER_PATTERN_CHARACTER = 1_000
_PER_REPEATING_PATTERN = 1_000_000
"""``\\pL{80}`` is compiled to megabytes."""


def rewrite(source: str, reading: Reading) -> str:
    """Let the ranges and the regular expressions of ``source`` pass through the functions of a ``Meter``."""
    changes = [(macro.dot, macro.dot, f".{_range_name(i)}()") for i, macro in enumerate(reading.macros)]
    changes += [(start, start + len("matches"), _matches_name(i)) for i, start in enumerate(reading.matches)]
    changes += [(end, end, f".{_ADDEND}()") for end in reading.addends]
    for start, end, text in sorted(changes, reverse=True):
        source = source[:start] + text + source[end:]
    return source


class Meter:
    """Counts the work of the expressions of one step. After ``MAX_WORK`` every range is empty.

    Nothing raises inside the evaluation, where ``||`` would swallow the error and go on;
    ``check`` does so after it.
    """

    def __init__(self, matches: Callable[[str, str], bool]) -> None:
        self._matches = matches
        self._left = MAX_WORK
        self._wrong = ""

    def check(self) -> None:
        """Raise ``ExpressionError`` if the evaluation did what it must not."""
        if self._left < 0:
            raise ExpressionError("this is too much work for an expression; let a step do it")
        if self._wrong:
            raise ExpressionError(self._wrong)

    def charge(self, work: int) -> None:
        self._left -= work

    def functions(self, reading: Reading, values: Mapping[str, Json]) -> dict[str, Callable[..., Value]]:
        """Charge each value that ``reading`` names once, and give the functions that count the rest.

        Raises ``ExpressionError`` if that is too much already.
        """
        sizes: dict[int | None, int] = {}
        for path in reading.paths:
            work = size(_resolve(path, values))
            sizes[path.macro] = sizes.get(path.macro, 0) + work
            self.charge(work)
            self.check()
        largest = [0] * len(reading.macros)
        functions: dict[str, Callable[..., Value]] = {}
        for i in range(len(reading.macros)):
            functions[_range_name(i)] = self._range(reading, i, sizes.get(i, 0), largest)
        for i in range(len(reading.matches)):
            functions[_matches_name(i)] = self._match
        if reading.addends:
            functions[_ADDEND] = self._addend
        return functions

    def _range(
        self, reading: Reading, number: int, read_each: int, largest: list[int]
    ) -> Callable[[Value], Value]:
        macro = reading.macros[number]

        def enter(value: Value) -> Value:
            if isinstance(value, dict):
                items: list[Value] = sorted(value, key=lambda key: (type(key).__name__, key))
            elif isinstance(value, list):
                items = value
            else:
                return value
            sizes = [size(item) for item in items]
            largest[number] = max(sizes, default=0)
            self.charge(_PER_CALL + sum(sizes) + len(items) * (_PER_TOKEN * macro.tokens + read_each))
            self.charge(len(items) ** 2 if macro.accumulates else 0)
            for binder in macro.variables:
                self.charge(sum(sizes) if binder == number else len(items) * largest[binder])
            return items if self._left >= 0 else []

        return enter

    def _match(self, value: Value, pattern: Value = None, *more: Value) -> Value:
        if more or not isinstance(value, str) or not isinstance(pattern, str):
            self._wrong = "matches() is called on a text, with a text"
            return False
        self.charge(len(value) * (1 + len(pattern)) // _CHARACTERS_PER_UNIT)
        self.charge(_PER_REPEATING_PATTERN if "{" in pattern else _PER_PATTERN_CHARACTER * len(pattern))
        return self._left >= 0 and self._matches(value, pattern)

    def _addend(self, value: Value) -> Value:
        self.charge(_PER_CALL)
        if isinstance(value, dict):
            self._wrong = "an object cannot be added to anything"
            return []
        return value


def size(root: Value) -> int:
    """Give the work that a copy of the value takes."""
    total = 0
    left: list[Value] = [root]
    while left:
        value = left.pop()
        total += _PER_ITEM
        if isinstance(value, (str, bytes)):
            total += len(value) // _CHARACTERS_PER_UNIT
        elif isinstance(value, Mapping):
            left.extend(value)
            left.extend(value.values())
        elif isinstance(value, Sequence):
            left.extend(value)
    return total


def _resolve(path: Path, values: Mapping[str, Json]) -> Json:
    """Go down the members of ``path`` as far as they are there."""
    value: Json = values.get(path.root)
    for member in path.members:
        if not isinstance(value, Mapping) or member not in value:
            return None
        value = value[member]
    return value


def _range_name(number: int) -> str:
    return f"range_{number}_"


def _matches_name(number: int) -> str:
    return f"matches_{number}_"
