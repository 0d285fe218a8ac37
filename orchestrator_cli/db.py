"""`orch db`: the schema of the ledger, and whether the ledger keeps its rules."""

from __future__ import annotations

import json
import os
import sys
from itertools import groupby
from pathlib import Path

import click

from orchestrator_cli.data_folder import DataFolder
from orchestrator_cli.errors import CommandError
from shared import migrations
from shared.config import ConfigError, Need, load_settings
from shared.errors import StoreUnavailable
from shared.services.verify import verify as verify_ledger
from shared.store.db import Database

_SHOWN = 5
_HOUR_S = 3_600.0

_data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="The folder of a stack that is up; else ORCH_MIGRATION_DATABASE_URL or ORCH_DATABASE_URL is used.",
)


@click.group()
def db() -> None:
    """Check and migrate the schema of the ledger; verify what is in it."""


@db.command()
@_data_dir
def upgrade(data_dir: Path | None) -> None:
    """Bring the schema to what this release needs."""
    url = _url(data_dir)
    try:
        migrations.upgrade(url)
    except StoreUnavailable as error:
        raise CommandError(str(error)) from error
    click.echo("the schema is up to date")


@db.command()
@_data_dir
def check(data_dir: Path | None) -> None:
    """Say whether the schema is what this release needs; exit status 1 when not."""
    try:
        problems = migrations.check(_url(data_dir))
    except StoreUnavailable as error:
        raise CommandError(str(error)) from error
    for problem in problems:
        click.echo(problem)
    if problems:
        sys.exit(1)
    click.echo("the schema is up to date")


@db.command()
@_data_dir
def verify(data_dir: Path | None) -> None:
    """Hold the ledger to its rules, while it is in use; exit status 1 with what breaks one.

    Each run's events and their hashes, every state against the events and the steps before it, attempts,
    counts. It only reads, as of one moment, and nobody waits for it; it takes seconds for a million events.
    """
    ledger = Database(
        _url(data_dir),
        role="orch_service",
        size=1,
        application_name="orchestrator-verify",
        answer_seconds=_HOUR_S,
    )
    try:
        found = verify_ledger(ledger)
    except StoreUnavailable as error:
        raise CommandError(str(error)) from error
    finally:
        ledger.close()
    for rule, places in groupby(found.broken, key=lambda broken: broken.rule):
        listed = list(places)
        click.echo(f"not so: {rule} ({len(listed)})")
        for broken in listed[:_SHOWN]:
            click.echo(f"  {broken.tenant} run {broken.run_id} {broken.place}")
    if found.broken:
        sys.exit(1)
    click.echo(f"all holds: {found.runs} runs, {found.running} of them running")


def _url(data_dir: Path | None) -> str:
    if data_dir is None:
        try:
            return load_settings(os.environ, need=Need.MIGRATION).migration_database_url
        except ConfigError as error:
            raise CommandError(f"{error}\n(or name the folder of a stack that is up: --data-dir)") from error
    stack_file = DataFolder(path=data_dir).stack_file
    try:
        url: str = json.loads(stack_file.read_text(encoding="utf-8"))["environ"][
            "ORCH_MIGRATION_DATABASE_URL"
        ]
    except (OSError, ValueError, KeyError):
        raise CommandError(f"no stack is up on {data_dir}") from None
    return url
