"""Take one guard away at a time, in a copy of the tree, and see that tests notice: `make mutation`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from tests.mutation.mutants import MUTANTS, ROOT, Mutant

FAILED = 1
"""The exit status of pytest when tests failed; others say that it could not run them."""
WITHIN_S = 300
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".orch", "__pycache__", ".hypothesis", "build", ".*_cache"
)


class Survived(AssertionError):
    """The tests that must notice did not."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", default="", help="Only mutants whose names contain this.")
def main(only: str) -> None:
    """Mutate a copy of the tree, once for each mutant of the table; exit status 1 when one survives."""
    survivors = []
    for mutant in (each for each in MUTANTS if only in each.name):
        begun = time.monotonic()
        try:
            kill(mutant)
            said = "noticed"
        except Survived as error:
            survivors.append(mutant.name)
            said = f"SURVIVED: {error}"
        click.echo(f"{mutant.name}: {said} ({time.monotonic() - begun:.0f} s)")
    if survivors:
        sys.exit(1)


def kill(mutant: Mutant) -> None:
    """Raise Survived unless the tests that must notice the mutant fail."""
    with tempfile.TemporaryDirectory(prefix="orch-mutant-") as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED, symlinks=True)
        mutant.place(copy).write_text(mutant.mutated(copy), "utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutant.red.split()]
        # Before the tree that is installed, in every process that the tests start.
        environ = {**os.environ, "PYTHONPATH": str(copy)}
        done = subprocess.run(
            command, cwd=copy, env=environ, check=False, capture_output=True, text=True, timeout=WITHIN_S
        )
    if done.returncode != FAILED:
        raise Survived(f"pytest {mutant.red} ended with {done.returncode}\n{done.stdout[-1500:]}")


if __name__ == "__main__":
    main()
