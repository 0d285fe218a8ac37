from __future__ import annotations

import json
import time

import pytest
from flask import Request
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from orchestrator_api import json_body
from orchestrator_api.errors import BodyTooLarge, InvalidJson, UnsupportedMediaType

LARGEST_INTEGER = 2**53 - 1

documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-LARGEST_INTEGER, LARGEST_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="ascii")), inner),
    max_leaves=20,
)


@given(documents.filter(lambda document: "\\u0000" not in json.dumps(document)), st.booleans())
def test_every_storable_document_is_read_as_it_was_written(document: object, escaped: bool) -> None:
    assert json_body.parse(json.dumps(document, ensure_ascii=escaped).encode()) == document


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1.0", 1),
        ("-2e3", -2_000),
        ("-0.0", 0),
        ("9007199254740991.0", LARGEST_INTEGER),
        ("1e20", 1e20),
        ("1.5", 1.5),
    ],
)
def test_a_number_is_read_by_its_value_however_it_is_written(written: str, read: float) -> None:
    number = json_body.parse(written.encode())
    assert (number, type(number)) == (read, type(read))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{", "line 1, column 2"),
        (b'{"a": 1,\n "b" 2}', "line 2, column 6"),
        (b"{} {}", "Extra data"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"[1e400]", "1e400"),
        (b"[9007199254740992]", "9007199254740992"),
        (b"[-9007199254740992]", "-9007199254740992"),
        (b"[" + b"9" * 5_000 + b"]", "999"),
        (b'{"a": {"b": 1, "b": 2}}', '"b" twice'),
        (b'{"steps": [{"with": "a\\u0000b"}]}', "steps[0].with"),
        (b'{"a": ["\\ud800"]}', "a[0]"),
        (b'{"\\udfff": 1}', "(a key)"),
        (b'"\\ud83d"', "the top"),
        (b'"\x01"', "control character"),
        (b"[" * 65 + b"]" * 65, "deeper than 64"),
        (b'{"a":' * 100_000, "deeper than 64"),
        (b"[" * 1_000_000, "deeper than 64"),
    ],
)
def test_what_has_no_one_reading_is_refused_with_its_place(body: bytes, why: str) -> None:
    with pytest.raises(InvalidJson) as refused:
        json_body.parse(body)
    assert why in str(refused.value)
    assert len(str(refused.value)) < 300


def test_escapes_that_only_look_forbidden_are_taken() -> None:
    assert json_body.parse(rb'["\\u0000", "\\\\ud800", "\ud83d\ude00"]') == ["\\u0000", "\\\\ud800", "😀"]


def test_brackets_in_texts_are_no_nesting() -> None:
    text = "[{" * 1_000 + '"\\'
    assert json_body.parse(json.dumps([text]).encode()) == [text]


@pytest.mark.parametrize(
    "body",
    [b'\\"' * 2_000_000 + b"[" * 100, b'"' + b"\\" * 4_000_001, b"[]," * 2_700_000, b'"a"' * 2_700_000],
)
def test_hostile_bodies_of_the_largest_size_are_refused_in_linear_time(body: bytes) -> None:
    began = time.process_time()
    with pytest.raises(InvalidJson):
        json_body.parse(body)
    assert time.process_time() - began < 3


def request(body: bytes, **options: object) -> Request:
    builder = EnvironBuilder(method="POST", data=body, **options)  # type: ignore[arg-type]
    return Request(builder.get_environ())


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON; charset=UTF-8"]
)
def test_json_is_taken_under_its_own_type(content_type: str) -> None:
    assert json_body.receive(request(b'{"a": 1}', content_type=content_type)) == ({"a": 1}, 8)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/merge-patch+json",
        "application/json; charset=utf-16",
        "application/json; profile=x",
        "application/x-www-form-urlencoded",
    ],
)
def test_every_other_type_is_refused(content_type: str | None) -> None:
    with pytest.raises(UnsupportedMediaType):
        json_body.receive(request(b"{}", content_type=content_type))


def test_no_body_is_an_empty_object() -> None:
    assert json_body.receive(request(b"")) == ({}, 0)


def test_an_announced_body_over_the_limit_is_refused_unread() -> None:
    large = request(b"{}")
    large.environ["CONTENT_LENGTH"] = str(json_body.MAX_BODY_BYTES + 1)
    with pytest.raises(BodyTooLarge):
        json_body.receive(large)


def test_an_unannounced_body_over_the_limit_is_refused_and_not_cut() -> None:
    builder = EnvironBuilder(method="POST", data=b" " * (json_body.MAX_BODY_BYTES + 1))
    environ = builder.get_environ()
    del environ["CONTENT_LENGTH"]
    environ["wsgi.input_terminated"] = True
    with pytest.raises(BodyTooLarge):
        json_body.receive(Request(environ))
