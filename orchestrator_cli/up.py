"""`orch up`: the whole stack in the foreground."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from orchestrator_cli.launcher import Launcher
from orchestrator_cli.options import UpOptions


@click.command()
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=Path(".orch"), help="Where all data is kept."
)
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8080, help="Port to listen on; 0 chooses one."
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, help="Number of worker processes.")
@click.option(
    "--concurrency", type=click.IntRange(1, 256), default=8, help="Steps that a worker runs at a time."
)
def up(data_dir: Path, host: str, port: int, workers: int, concurrency: int) -> None:
    """Start PostgreSQL, Redis, the API, workers and the sweeper, and stop them on Ctrl-C."""
    launcher = Launcher(
        UpOptions(
            data_dir=str(data_dir.resolve()), host=host, port=port, workers=workers, concurrency=concurrency
        )
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: launcher.request_stop())
    status = launcher.wait()
    if status == 0:
        click.echo("everything is stopped", err=True)
    sys.exit(status)
