from __future__ import annotations

import hashlib
import itertools
import json

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.hashing import MAX_DEPTH, MAX_SAFE_INTEGER, NotCanonical, canonical, hash_bytes, hash_json
from shared.domain.models import Json

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES: st.SearchStrategy[Json] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_canonical_is_what_the_library_writes_whether_or_not_the_short_cut_is_taken(value: Json) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@given(st.dictionaries(TEXTS, SCALARS, max_size=5))
def test_the_order_in_which_an_object_was_written_does_not_matter(value: dict[str, Json]) -> None:
    hashes = {hash_json(dict(order)) for order in itertools.permutations(value.items())}
    assert len(hashes) == 1


@given(VALUES)
def test_canonical_json_is_json_of_the_same_value(value: Json) -> None:
    read = json.loads(canonical(value))
    assert canonical(read) == canonical(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None, "é"]}, '{"a":[true,null,"é"],"b":1}'),
        (1.0, "1"),
        (-0.0, "0"),
        (1e21, "1e+21"),
        (10**21, "1e+21"),
        (10**300, "1e+300"),
        (2**53, "9007199254740992"),
        (2.0**60, "1152921504606847000"),
        (1152921504606847000, "1152921504606847000"),
        (0.000001, "0.000001"),
        (1e-7, "1e-7"),
        ('\x00\x1f\x7f\\"/\n', '"\\u0000\\u001f\x7f\\\\\\"/\\n"'),
        # By code points the first key would come before the second, by UTF-16 it comes after.
        ({"\ufb33": 1, "\U0001f600": 2}, '{"\U0001f600":2,"\ufb33":1}'),
        ((1, (2,)), "[1,[2]]"),
    ],
)
def test_canonical_form(value: Json, text: str) -> None:
    assert canonical(value).decode() == text


def test_the_hash_is_sha256_of_the_canonical_form() -> None:
    assert hash_json({"b": 1, "a": 2}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()
    assert hash_bytes(b"") == hashlib.sha256(b"").hexdigest()


def _nested(levels: int) -> Json:
    value: Json = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        -float("inf"),
        MAX_SAFE_INTEGER + 2,
        -MAX_SAFE_INTEGER - 2,
        2**60,
        10**400,
        "\ud800",
        {"\udc00": 1},
        {"\ud800": 1.5},
        {1: 2},
        {None: 2},
        b"bytes",
        {1, 2},
        object(),
        _nested(MAX_DEPTH + 1),
        _nested(100_000),
    ],
    ids=lambda value: repr(type(value)),
)
def test_what_has_no_canonical_form_is_refused_by_one_error(value: Json) -> None:
    with pytest.raises(NotCanonical):
        canonical(value)
    with pytest.raises(NotCanonical):
        canonical({"within": value, "beside": 1.5})


def test_the_deepest_value_allowed_has_a_canonical_form() -> None:
    assert canonical(_nested(MAX_DEPTH)) == b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH
