"""``when`` and ``${{ }}``: CEL over ``inputs`` and ``steps.<ancestor>.{status,outputs}``.

An expression depends on nothing but these, and gives JSON: equal values give an
equal result, whatever the machine and the order in which objects were written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import cel

from shared.domain.cel_meter import Meter, rewrite
from shared.domain.cel_source import ExpressionError, Reading, read, scan
from shared.domain.cel_values import Value, from_cel, kind, to_cel
from shared.domain.hashing import canonical
from shared.domain.models import Ancestor, Json, JsonObject, StepId

__all__ = [
    "ExpressionError",
    "Hole",
    "References",
    "compile_check",
    "evaluate_when",
    "holes",
    "holes_in",
    "references",
    "render",
]

_OPEN = "${{"
_CLOSE = "}}"
_MAY_HIDE_CLOSE = re.compile(r"[\"'{]|//")
_MAX_MESSAGE = 500

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Hole:
    """A ``${{ source }}`` in a text, which takes the place of ``text[start:end]``."""

    start: int
    end: int
    source: str


@dataclass(frozen=True, slots=True)
class References:
    """What an expression reads: the steps that it names, and whether it reads the run's inputs."""

    ancestors: frozenset[StepId]
    inputs: bool


@dataclass(frozen=True, slots=True)
class _Compiled:
    """An expression ready to run: the program, metered, and what was read from its source."""

    program: cel.Program
    reading: Reading
    references: References


def holes(text: str) -> tuple[Hole, ...]:
    """Find the ``${{ }}`` in ``text``. One ends at the first ``}}`` outside of CEL's texts and braces."""
    found: list[Hole] = []
    start = text.find(_OPEN)
    while start >= 0:
        end = _end_of_hole(text, start + len(_OPEN))
        found.append(Hole(start, end + len(_CLOSE), text[start + len(_OPEN) : end].strip()))
        start = text.find(_OPEN, end)
    return tuple(found)


def _end_of_hole(text: str, start: int) -> int:
    end = text.find(_CLOSE, start)
    if end >= 0 and not _MAY_HIDE_CLOSE.search(text, start, end):
        return end
    depth = 0
    for token in scan(text, start):
        if token.text == "}" and depth == 0 and text.startswith(_CLOSE, token.start):
            return token.start
        if token.kind == "sign":
            depth += (token.text == "{") - (token.text == "}")
    raise ExpressionError(f"a {_OPEN} is never closed by {_CLOSE}")


def holes_in(params: JsonObject) -> Iterator[tuple[str, Hole | ExpressionError]]:
    """Give every hole of every text in ``params`` with its place (``argv[1]``), or what is wrong with it."""
    left: list[tuple[str, Json]] = [(key, value) for key, value in reversed(list(params.items()))]
    while left:
        path, value = left.pop()
        if isinstance(value, str):
            if _OPEN in value:
                try:
                    yield from ((path, hole) for hole in holes(value))
                except ExpressionError as error:
                    yield path, error
        elif isinstance(value, Mapping):
            left.extend((f"{path}.{key}", member) for key, member in reversed(list(value.items())))
        elif isinstance(value, Sequence):
            left.extend((f"{path}[{i}]", value[i]) for i in reversed(range(len(value))))


def compile_check(source: str) -> None:
    """Raise ``ExpressionError`` unless ``source`` compiles and names only what there is."""
    _compiled(source)


def references(source: str) -> References:
    """Tell what ``source`` reads. Raises ``ExpressionError`` as ``compile_check`` does."""
    return _compiled(source).references


def evaluate_when(source: str, *, inputs: JsonObject, ancestors: Mapping[StepId, Ancestor]) -> bool:
    """Decide whether a step runs. Raises ``ExpressionError`` unless the value is true or false."""
    value = _Evaluation(inputs, ancestors).evaluate(source)
    if not isinstance(value, bool):
        raise ExpressionError(f"when must be true or false, and is {kind(value)}")
    return value


def render(params: JsonObject, *, inputs: JsonObject, ancestors: Mapping[StepId, Ancestor]) -> JsonObject:
    """Fill the holes of all texts in ``params``; keys stay as they are.

    A text that is one hole and nothing else takes the value itself. In other
    texts a value that is a text stands as it is, any other as canonical JSON.
    Raises ``ExpressionError``. All expressions together share one bound of work.
    """
    evaluation = _Evaluation(inputs, ancestors)
    return {key: _render(value, evaluation) for key, value in params.items()}


def _render(value: Json, evaluation: _Evaluation) -> Json:
    if isinstance(value, str):
        return _fill(value, evaluation) if _OPEN in value else value
    if isinstance(value, Mapping):
        return {key: _render(member, evaluation) for key, member in value.items()}
    if isinstance(value, Sequence):
        return [_render(member, evaluation) for member in value]
    return value


def _fill(text: str, evaluation: _Evaluation) -> Json:
    found = holes(text)
    if len(found) == 1 and (found[0].start, found[0].end) == (0, len(text)):
        return evaluation.evaluate(found[0].source)
    parts: list[str] = []
    end = 0
    for hole in found:
        parts.append(text[end : hole.start])
        value = evaluation.evaluate(hole.source)
        parts.append(value if isinstance(value, str) else canonical(value).decode())
        end = hole.end
    return "".join([*parts, text[end:]])


class _Evaluation:
    """The values that expressions see, handed to the library once for all expressions of a step."""

    def __init__(self, inputs: JsonObject, ancestors: Mapping[StepId, Ancestor]) -> None:
        self._values: dict[str, Json] = {
            "inputs": to_cel(inputs),
            "steps": {
                step_id: {"status": str(ancestor.status), "outputs": to_cel(ancestor.outputs)}
                for step_id, ancestor in ancestors.items()
            },
        }
        self._context: cel.Context | None = None
        self._meter = Meter(_matches)

    def evaluate(self, source: str) -> Json:
        compiled = _compiled(source)
        functions = self._meter.functions(compiled.reading, self._values)
        value = _guarded(lambda: self._execute(compiled.program, functions))
        self._meter.check()
        return from_cel(value)

    def _execute(self, program: cel.Program, functions: Mapping[str, Callable[..., Value]]) -> Value:
        if self._context is None:
            self._context = cel.Context(self._values)
        for name, function in functions.items():
            self._context.add_function(name, function)
        value: Value = program.execute(self._context)
        return value


@lru_cache(maxsize=4_096)
def _compiled(source: str) -> _Compiled:
    reading = read(source)
    program = _guarded(lambda: cel.compile(source))
    bound = {macro.variable for macro in reading.macros}
    if set(program.variables()) - bound != reading.roots - bound:
        # The two readers of the source disagree, so what it refers to is not certain.
        raise ExpressionError("this expression cannot be read; write it more plainly")
    if reading.macros or reading.matches or reading.addends:
        program = _guarded(lambda: cel.compile(rewrite(source, reading)))
    ancestors = frozenset(StepId(path.members[0]) for path in reading.paths if path.root == "steps")
    return _Compiled(program, reading, References(ancestors, "inputs" in reading.roots))


def _matches(value: str, pattern: str) -> bool:
    return bool(_matcher().execute({"value": value, "pattern": pattern}))


@lru_cache(maxsize=1)
def _matcher() -> cel.Program:
    return cel.compile("value.matches(pattern)")


def _guarded(call: Callable[[], _T]) -> _T:
    """Turn whatever the library raises into an ``ExpressionError``, a panic of its Rust code too."""
    try:
        return call()
    except Exception as error:
        raise ExpressionError(_reason(error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ExpressionError("the expression cannot be evaluated") from error


def _reason(error: Exception) -> str:
    """Say in one line what the library found; below a syntax error it draws the whole source."""
    if isinstance(error, KeyError):
        return f"there is no member {error.args[0]!r}"[:_MAX_MESSAGE]
    for line in str(error).splitlines():
        _, found, reason = line.partition("ERROR: <input>:")
        if found:
            return f"line and column {reason}"[:_MAX_MESSAGE]
    return (str(error).splitlines() or [type(error).__name__])[0][:_MAX_MESSAGE]
