from __future__ import annotations

import functools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semver import Version

from shared.domain.versions import MAX_LENGTH, PATTERN, parse, precedence
from shared.errors import InvalidInput

NUMBERS = st.integers(0, 12) | st.integers(0, 10**20)
WORDS = st.from_regex(r"[0-9]{0,3}[A-Za-z-][0-9A-Za-z-]{0,3}", fullmatch=True)
PRERELEASES = st.none() | st.lists(NUMBERS.map(str) | WORDS, min_size=1, max_size=3).map(".".join)
BUILDS = st.none() | st.sampled_from(["1", "a.b", "007"])
VERSIONS = st.builds(Version, NUMBERS, NUMBERS, NUMBERS, PRERELEASES, BUILDS)


@given(VERSIONS, VERSIONS)
def test_precedence_sorts_as_semver_compares(one: Version, other: Version) -> None:
    a, b = precedence(str(one)), precedence(str(other))
    assert (a > b) - (a < b) == one.compare(other)


ALMOST = st.text("019.-+aZ ", max_size=12) | st.from_regex(PATTERN) | VERSIONS.map(str)


@given(ALMOST)
def test_the_published_pattern_is_what_is_parsed(text: str) -> None:
    fits = len(text) <= MAX_LENGTH and re.fullmatch(PATTERN, text) is not None
    if fits:
        assert str(parse(text)) == text
    else:
        with pytest.raises(InvalidInput):
            parse(text)


@given(VERSIONS)
def test_precedence_is_ascii_so_that_bytes_sort_like_characters(version: Version) -> None:
    assert precedence(str(version)).isascii()


def _compare(one: str, other: str) -> int:
    return parse(one).compare(other)


def test_precedence_sorts_the_example_of_the_standard() -> None:
    ordered = [
        "0.9.0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-alpha-x", "1.0.0-beta",
        "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.9.0", "1.10.0", "10.0.0",
    ]  # fmt: skip
    assert sorted(ordered, key=precedence) == ordered
    assert sorted(ordered, key=functools.cmp_to_key(_compare)) == ordered


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.0", "1.0.0.0", "01.0.0", "1.0.0-01", "1.0.0-", "1.0.0+", "1.0.0-a..b", "v1.0.0", " 1.0.0",
     "1.0.0\n", "1.0.0-ä", "\u0661.0.0", "1.0.0-" + "a" * MAX_LENGTH, "9" * 5_000 + ".0.0"],
)  # fmt: skip
def test_what_is_no_version_is_refused_and_names_the_field(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        precedence(text)
    assert [problem.field for problem in caught.value.problems] == ["version"]
    assert len(str(caught.value)) < 200
