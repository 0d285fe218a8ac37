"""Read a request's JSON body, and refuse what other readers of the same bytes would read otherwise.

The ledger hashes what was sent (RFC 8785), so nothing may come in that has two
readings: duplicate keys, NaN, integers that doubles cannot hold, lone surrogates.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

from flask import Request
from gunicorn.http.errors import ParseException

from orchestrator_api.errors import BodyTooLarge, InvalidJson, UnsupportedMediaType
from shared.domain.models import Json

MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 64
"""Below what a recursive walk (hashing, schemas) can bear, above what people write."""
MAX_INTEGER = 2**53 - 1

_STRING = re.compile(rb'"(?:[^"\\]+|\\.)*"?', re.DOTALL)
"""The closing quote is optional: else a text that lacks it would be tried again from each quote in it."""
_LITERAL = re.compile(r'"(?:[^"\\]+|\\.)*"|-?[0-9][0-9.eE+-]*|NaN|-?Infinity')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_TO_SIGN = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""An opening bracket becomes the signed byte 1, a closing one -1."""
_SUSPECT_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_SURROGATE = re.compile("[\ud800-\udfff]")


def receive(request: Request) -> tuple[Json, int]:
    """Read and parse the body of ``request``; give it with its size in bytes. An empty body is ``{}``."""
    body = _read(request)
    if not body:
        return {}, 0
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("send the body as it is, without a Content-Encoding")
    if request.mimetype != "application/json" or not _charset_is_utf8(request):
        raise UnsupportedMediaType("send the body as application/json")
    return parse(body), len(body)


def parse(body: bytes) -> Json:
    """Parse one JSON text, or raise InvalidJson that says what is wrong and where."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidJson(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    if _depth(body) > MAX_DEPTH:
        raise InvalidJson(f"the body is nested deeper than {MAX_DEPTH} levels")
    try:
        value: Json = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except json.JSONDecodeError as error:
        raise InvalidJson(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except _Unfit as error:
        raise InvalidJson(f"the body holds {error.why} at {_where(error.literal, text)}") from error
    if _SUSPECT_ESCAPE.search(text):
        _refuse_unstorable(value)
    return value


def _read(request: Request) -> bytes:
    """Read the whole body, never more than a byte over the limit.

    ``MAX_CONTENT_LENGTH`` is not used: for a chunked body Werkzeug stops at it
    without an error, and a cut body would be read as a whole one.
    """
    announced = request.content_length
    if announced is not None and announced > MAX_BODY_BYTES:
        raise BodyTooLarge(f"the body is over {MAX_BODY_BYTES} bytes")
    pieces: list[bytes] = []
    left = MAX_BODY_BYTES + 1
    try:
        while left and (piece := request.stream.read(min(left, 1 << 20))):
            pieces.append(piece)
            left -= len(piece)
    except TimeoutError as error:
        raise InvalidJson("the body did not arrive in time") from error
    except (OSError, ParseException) as error:
        # The caller hung up, or sent chunks that are none.
        raise InvalidJson("the body ended before it was whole") from error
    if not left:
        raise BodyTooLarge(f"the body is over {MAX_BODY_BYTES} bytes")
    return b"".join(pieces)


def _charset_is_utf8(request: Request) -> bool:
    parameters = request.mimetype_params
    return not parameters or (list(parameters) == ["charset"] and parameters["charset"].lower() == "utf-8")


def _depth(body: bytes) -> int:
    """Give the deepest nesting of brackets outside of strings, before anything recursive sees the body."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return 0
    signs = _STRING.sub(b"", body).translate(_TO_SIGN, _NO_BRACKETS)
    return max(accumulate(array("b", signs)), default=0)


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise InvalidJson(f"the body has an object with the key {json.dumps(twice)} twice")
    return members


class _Unfit(Exception):
    """A number that is none, or too large, as it is spelled."""

    def __init__(self, literal: str, why: str) -> None:
        super().__init__(why)
        self.literal = literal
        self.why = why


def _where(literal: str, text: str) -> str:
    """Find the first place outside of a string where ``text``, up to there sound JSON, has the literal."""
    at = next((m.start() for m in _LITERAL.finditer(text) if m.group() == literal), 0)
    return f"line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}"


def _constant(name: str) -> Json:
    raise _Unfit(name, f"{name}, which is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > 17 or abs(number := int(digits)) > MAX_INTEGER:
        raise _Unfit(digits, f"the integer {digits[:24]}, which is beyond 2^53 - 1,")
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _Unfit(digits, f"the number {digits[:24]}, which is too large for a double,")
    # JSON has one kind of number: 1.0 is 1 to its schemas, and in the canonical form that is hashed. So it is
    # to expressions, lest equal hashes stand for unequal work.
    return int(number) if number.is_integer() and abs(number) <= MAX_INTEGER else number


def _refuse_unstorable(value: Json) -> None:
    """Find NUL and lone surrogates, which PostgreSQL can store neither as text nor as jsonb."""
    todo: list[tuple[str, Json]] = [("", value)]
    while todo:
        path, item = todo.pop()
        if isinstance(item, str):
            if "\x00" in item or _SURROGATE.search(item):
                raise InvalidJson(f"the text at {path or 'the top'} holds a NUL or half of a surrogate pair")
        elif isinstance(item, Mapping):
            for key, member in item.items():
                todo.append((f"{path} (a key)", key))
                todo.append((f"{path}.{key}" if path else key, member))
        elif isinstance(item, Sequence):
            todo.extend((f"{path}[{index}]", member) for index, member in enumerate(item))
