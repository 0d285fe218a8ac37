"""`orch ledger verify` and the example as people run them: status, words, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.exported import SCRIPT, Export
from tests.support.stack import orch

PROGRAMS = {
    "orch": orch("ledger", "verify"),
    # Isolated, and without site-packages: the standard library is all that it has.
    "example": [sys.executable, "-I", "-S", str(SCRIPT)],
}


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> list[str]:
    return PROGRAMS[request.param]


def ran(program: list[str], *arguments: str, given: bytes = b"") -> tuple[int, str, str]:
    done = subprocess.run([*program, *arguments], input=given, capture_output=True, timeout=60, check=False)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in out + err
    return done.returncode, out, err


def test_an_export_holds_from_a_file_and_from_the_standard_input(
    program: list[str], export: Export, tmp_path: Path
) -> None:
    (tmp_path / "export.ndjson").write_bytes(export)
    for code, out, err in (ran(program, str(tmp_path / "export.ndjson")), ran(program, "-", given=export)):
        assert (code, out.count("\n"), err) == (0, 1, "")
        assert "5 runs" in out


def test_the_first_wrong_line_is_named(program: list[str], export: Export) -> None:
    spoilt = export.replace(b'"dagId":"failed"', b'"dagId":"worked"', 1)
    code, out, err = ran(program, "-", given=spoilt)
    assert (code, err) == (1, "")
    assert out.startswith("line 2: ")
    assert out.count("\n") == 1


@pytest.mark.parametrize("given", [b"", b"\xff\n", b"[" * 100_000, b'{"a":' * 100_000 + b"\n", b"\x1b[2J"])
def test_garbage_is_named_not_printed(program: list[str], given: bytes) -> None:
    code, out, err = ran(program, "-", given=given)
    assert (code, err) == (1, "")
    assert out.startswith("line 1: ")
    assert out.strip().isprintable()


def test_what_cannot_be_read_is_told_apart_from_what_is_wrong(program: list[str], tmp_path: Path) -> None:
    for unreadable in (tmp_path, tmp_path / "missing", tmp_path / "a\nb"):
        code, out, err = ran(program, str(unreadable))
        assert (code, out) == (2, "")
        assert err
    assert ran(program)[0] == 2
