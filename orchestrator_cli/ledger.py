"""`orch ledger`: what was exported from the ledger, checked without a server."""

from __future__ import annotations

import sys
from typing import BinaryIO

import click

from orchestrator_cli.errors import CommandError
from orchestrator_cli.export_file import WrongLine
from orchestrator_cli.export_file import verify as verify_file


class _Unreadable(CommandError):
    exit_code = 2


@click.group()
def ledger() -> None:
    """Check what was exported from the ledger."""


@ledger.command()
@click.argument("file", type=click.File("rb"))
def verify(file: BinaryIO) -> None:
    """Check an export (GET /runs:export) offline: FILE, or - for the standard input.

    Its manifest, the chain of each run's events, every hash that can be computed from what it holds, and
    that the events agree with the states. Exit status 1, with the first line that is wrong; 2 when FILE
    cannot be read.
    """
    try:
        found = verify_file(file)
    except WrongLine as error:
        click.echo(str(error))
        sys.exit(1)
    except OSError as error:
        raise _Unreadable(f"{file.name}: {error.strerror}") from error
    except MemoryError as error:
        raise _Unreadable(f"{file.name}: a line does not fit into the memory of this machine") from error
    click.echo(f"all holds: {found.runs} runs, {found.steps} steps, {found.events} events")
