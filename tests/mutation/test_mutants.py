"""The table of mutants is true of the tree as it is, and a few of them are tried each time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.mutation.__main__ import Survived, kill
from tests.mutation.mutants import MUTANTS, ROOT, Mutant

TRIED = ("a token needs no expiry", "bytes that rotted are handed out", "secrets are logged as they are")
"""They need no servers; `make mutation` tries all."""


def by_name(mutant: Mutant) -> str:
    return mutant.name


@pytest.mark.parametrize("mutant", MUTANTS, ids=by_name)
def test_what_a_mutant_changes_stands_where_it_says_once(mutant: Mutant) -> None:
    text = mutant.place(ROOT).read_text("utf-8")
    assert mutant.mutated(ROOT) != text


@pytest.mark.parametrize("mutant", MUTANTS, ids=by_name)
def test_the_tests_that_must_notice_a_mutant_exist(mutant: Mutant) -> None:
    for red in mutant.red.split():
        file, _, function = red.partition("::")
        text = (ROOT / file).read_text("utf-8")
        assert re.search(rf"^def {function or 'test_'}", text, re.MULTILINE), red


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.name in TRIED], ids=by_name)
def test_a_mutant_is_noticed(mutant: Mutant) -> None:
    kill(mutant)


def test_a_mutant_that_nobody_notices_is_named(tmp_path: Path) -> None:
    harmless = Mutant(
        name="another word in a comment",
        where="shared/artifacts.py",
        old="Who may read which hash is the ledger's business",
        new="Who may read which hash is for the ledger to say",
        red="tests/unit/test_ids.py",
    )
    with pytest.raises(Survived, match="ended with 0"):
        kill(harmless)
