"""What can be known of a CEL expression by reading it: the values it names, its macros, its end.

The library tells an expression's root names and functions, but not the members
that it reads, and gives no tree. ``read`` finds both from the tokens; compiling
is still the library's, so that this module need not know the whole grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_CHARACTERS = 4_096
MAX_TOKENS = 1_000
MAX_NESTING = 50
"""With these bounds the library's recursion stays within a stack of 1 MiB."""

ROOTS = frozenset({"inputs", "steps"})
MEMBERS_OF_A_STEP = frozenset({"status", "outputs"})

_LITERALS = frozenset({"true", "false", "null", "in"})
_TYPES = frozenset({"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type"})
_FUNCTIONS = frozenset(
    {"bytes", "double", "duration", "dyn", "has", "int", "size", "string", "timestamp", "type"}
)
_METHODS = frozenset(
    {"contains", "endsWith", "matches", "size", "startsWith"}
    | {"getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours"}
    | {"getMilliseconds", "getMinutes", "getMonth", "getSeconds"}
)
_MACROS = frozenset({"all", "exists", "exists_one", "existsOne", "filter", "map"})
_ACCUMULATING = frozenset({"filter", "map"})

_STEP_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_CLOSERS = {")": "(", "]": "[", "}": "{"}
_TOKEN = re.compile(
    r"""
      (?P<blank> [ \t\r\n\f]+ | //[^\n]* )
    | (?P<text>
          (?: [bB]?[rR] (?: \"{3} .*? \"{3} | '{3} .*? '{3} | "[^"\r\n]*" | '[^'\r\n]*' ) )
        | (?: [bB]?
              (?: \"{3} (?:\\.|[^\\])*? \"{3} | '{3} (?:\\.|[^\\])*? '{3}
                | "(?:\\.|[^\\"\r\n])*" | '(?:\\.|[^\\'\r\n])*' ) ) )
    | (?P<number> (?: 0[xX][0-9a-fA-F]+ | (?: [0-9]*\.[0-9]+ | [0-9]+ ) (?:[eE][+-]?[0-9]+)? ) [uU]? )
    | (?P<name> [_a-zA-Z][_a-zA-Z0-9]* )
    | (?P<sign> && | \|\| | [=!<>]= | [-+*/%<>!?:.,()\[\]{}] )
    """,
    re.VERBOSE | re.DOTALL,
)


class ExpressionError(ValueError):
    """An expression that cannot be used, or has no usable value; the message is for whoever wrote it."""


class Token(NamedTuple):
    """A word of the source; ``kind`` is ``text``, ``number``, ``name`` or ``sign``."""

    kind: str
    text: str
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """A place where the expression reads ``inputs`` or ``steps``, and the members it goes on to by name.

    ``macro`` is the innermost macro around it, ``None`` outside of all.
    """

    root: str
    members: tuple[str, ...]
    macro: int | None


@dataclass(slots=True, kw_only=True)
class Macro:
    """A macro that goes over a list or an object, known by its place in ``Reading.macros``.

    ``variables`` names, once for each use directly within it, the macro that bound the name.
    """

    name: str
    dot: int
    """Where in the source the ``.`` before its name stands."""
    variable: str
    tokens: int = 0
    variables: list[int] = field(default_factory=list)

    @property
    def accumulates(self) -> bool:
        return self.name in _ACCUMULATING


@dataclass(slots=True)
class Reading:
    """All that ``read`` found."""

    paths: list[Path] = field(default_factory=list)
    macros: list[Macro] = field(default_factory=list)
    matches: list[int] = field(default_factory=list)
    """Where in the source ``matches`` is called."""
    addends: list[int] = field(default_factory=list)
    """Where in the source ends what is on the right of a ``+``, unless it is plainly no object."""
    roots: set[str] = field(default_factory=set)
    """Every free name: of ``inputs``, ``steps`` and types."""


def scan(source: str, start: int = 0) -> Iterator[Token]:
    """Give the tokens from ``start`` on. Raises ``ExpressionError`` at what begins no token."""
    for match in _TOKEN.finditer(source, start):
        if match.start() != start:
            break
        start = match.end()
        kind = match.lastgroup
        if kind and kind != "blank":
            yield Token(kind, match.group(), match.start())
    if start < len(source):
        raise ExpressionError(f"unexpected {source[start]!r}")


def read(source: str) -> Reading:
    """Find what ``source`` refers to. Raises ``ExpressionError`` at names and functions that do not exist."""
    if len(source) > MAX_CHARACTERS:
        raise ExpressionError(f"longer than {MAX_CHARACTERS} characters")
    tokens = list(scan(source))
    if len(tokens) > MAX_TOKENS:
        raise ExpressionError(f"more than {MAX_TOKENS} words and signs")
    if not tokens:
        raise ExpressionError("the expression is empty")
    return _Reader(tokens).read()


class _Reader:
    """One pass over the tokens, with the open brackets on a stack."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.words = [token.text if token.kind in ("name", "sign") else "" for token in tokens]
        """The names and signs, and nothing for a literal, so that ``"("`` is no bracket."""
        self.words += ["", "", "", ""]  # One may look ahead, and before the first one.
        self.reading = Reading()
        self.open: list[tuple[str, int | None]] = []
        """Each open bracket, and the macro whose arguments it holds."""
        self.around: list[int] = []
        """The macros that this place lies in, innermost last."""
        self.calls: int | None = None
        """The macro whose opening bracket comes next."""
        self.commas: dict[int, int] = {}
        self.begun: dict[int, int] = {}

    @property
    def innermost(self) -> int | None:
        return self.around[-1] if self.around else None

    def read(self) -> Reading:
        for index, token in enumerate(self.tokens):
            if token.kind == "name":
                self.name(index, token)
            elif token.kind == "sign":
                self.sign(index, token)
            elif token.kind == "number" and token.text[-1] in "uU":
                raise ExpressionError("there are no unsigned integers here, as there are none in JSON")
        if self.open:
            raise ExpressionError(f"a {self.open[-1][0]!r} is never closed")
        return self.reading

    def sign(self, index: int, token: Token) -> None:
        if token.text in ("(", "[", "{"):
            self.enter(index, token)
        elif token.text in _CLOSERS:
            self.leave(index, token)
        elif token.text == "," and self.open and (macro := self.open[-1][1]) is not None:
            self.commas[macro] = self.commas.get(macro, 0) + 1
        elif token.text == "." and not self.ends_operand(index - 1):
            raise ExpressionError("a name cannot begin with '.'")
        elif token.text == "+":
            self.addend(index + 1)

    def enter(self, index: int, token: Token) -> None:
        if len(self.open) >= MAX_NESTING:
            raise ExpressionError(f"nested deeper than {MAX_NESTING} brackets")
        self.open.append((token.text, self.calls))
        if self.calls is not None:
            self.around.append(self.calls)
            self.begun[self.calls] = index
            self.calls = None

    def leave(self, index: int, token: Token) -> None:
        opener, macro = self.open.pop() if self.open else ("", None)
        if opener != _CLOSERS[token.text]:
            raise ExpressionError(f"a {token.text!r} closes nothing")
        if macro is None:
            return
        self.around.pop()
        found = self.reading.macros[macro]
        found.tokens = index - self.begun[macro]
        commas = self.commas.get(macro, 0)
        if commas != 1 and not (found.name == "map" and commas == 2):
            raise ExpressionError(f"{found.name}() takes a name and an expression")

    def ends_operand(self, index: int) -> bool:
        return index >= 0 and (self.tokens[index].kind != "sign" or self.words[index] in _CLOSERS)

    def addend(self, index: int) -> None:
        """Note where the operand at ``index`` ends: a name, literal or bracket, and its members."""
        if index >= len(self.tokens) or self.words[index] in ("-", "!"):
            return
        end = self.close(index)
        while self.words[end + 1] in (".", "[") or (
            self.words[end + 1] == "(" and self.words[end].isidentifier()
        ):
            end = self.close(end + (2 if self.words[end + 1] == "." else 1))
        token = self.tokens[end]
        if token.kind not in ("text", "number"):
            self.reading.addends.append(token.start + len(token.text))

    def close(self, index: int) -> int:
        """Give the index of the bracket that closes the one at ``index``, and ``index`` if there is none."""
        depth = 0
        for i in range(index, len(self.tokens)):
            depth += (self.words[i] in _CLOSERS.values()) - (self.words[i] in _CLOSERS)
            if depth <= 0:
                return i
        raise ExpressionError("a bracket is never closed")

    def name(self, index: int, token: Token) -> None:
        called = self.words[index + 1] == "("
        if self.words[index - 1] == ".":
            if called:
                self.method(index, token)
        elif called:
            if token.text not in _FUNCTIONS:
                raise ExpressionError(f"there is no function {token.text}()")
        elif self.words[index + 1] == "{":
            raise ExpressionError(f"there is no type {token.text} to build")
        elif token.text not in _LITERALS and not self.is_binder(index):
            self.root(index, token)

    def method(self, index: int, token: Token) -> None:
        if token.text in _MACROS:
            variable = self.words[index + 2]
            if not variable.isidentifier() or self.words[index + 3] != ",":
                raise ExpressionError(f"{token.text}() takes a name and an expression")
            if variable in ROOTS | _TYPES | _LITERALS:
                raise ExpressionError(f"{token.text}() cannot give the name {variable} another meaning")
            self.calls = len(self.reading.macros)
            dot = self.tokens[index - 1].start
            self.reading.macros.append(Macro(name=token.text, dot=dot, variable=variable))
        elif token.text == "matches":
            self.reading.matches.append(token.start)
        elif token.text not in _METHODS:
            raise ExpressionError(f"there is no function {token.text}()")

    def is_binder(self, index: int) -> bool:
        return self.words[index - 1] == "(" and self.open[-1][1] is not None

    def root(self, index: int, token: Token) -> None:
        for macro in reversed(self.around):
            if self.reading.macros[macro].variable == token.text:
                self.reading.macros[self.around[-1]].variables.append(macro)
                return
        if token.text not in ROOTS and token.text not in _TYPES:
            raise ExpressionError(
                f"{token.text} is not known here, only inputs and steps are"
                ' (a step whose id is no identifier is written steps["my-step"])'
            )
        self.reading.roots.add(token.text)
        if token.text in ROOTS:
            members = self.members(index)
            if token.text == "steps":
                _check_step_members(members)
            self.reading.paths.append(Path(root=token.text, members=members, macro=self.innermost))

    def members(self, index: int) -> tuple[str, ...]:
        """Follow ``.name`` and ``["name"]`` after the name at ``index`` for as long as they are plain."""
        found: list[str] = []
        index += 1
        while True:
            if self.words[index] == "." and self.words[index + 1] and self.words[index + 2] != "(":
                found.append(self.words[index + 1])
                index += 2
            elif self.words[index] == "[" and self.words[index + 2] == "]":
                plain = _plain_text(self.tokens[index + 1])
                if plain is None:
                    break
                found.append(plain)
                index += 3
            else:
                break
        return tuple(found)


def _plain_text(token: Token) -> str | None:
    """Give the value of a string literal without escapes, else ``None``."""
    if token.kind != "text" or token.text[0] in "bB" or "\\" in token.text:
        return None
    quoted = token.text.lstrip("rR")
    width = 3 if quoted[:3] in ('"""', "'''") and len(quoted) >= 6 else 1
    return quoted[width:-width]


def _check_step_members(members: tuple[str, ...]) -> None:
    if not members:
        raise ExpressionError('steps must be followed by one id, as in steps.fetch or steps["my-step"]')
    if not _STEP_ID.fullmatch(members[0]):
        raise ExpressionError(f"{members[0][:128]!r} is no id of a step")
    if len(members) > 1 and members[1] not in MEMBERS_OF_A_STEP:
        raise ExpressionError(f"steps.{members[0]} has only status and outputs")
