"""`orch demo`: an example from start to end, on a stack of its own."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from orchestrator_cli.client import Client, RunView
from orchestrator_cli.data_folder import DataFolder
from orchestrator_cli.errors import CommandError
from orchestrator_cli.keys import Grant, mint
from orchestrator_cli.launcher import Launcher, launched
from orchestrator_cli.options import UpOptions
from orchestrator_cli.progress import progress
from shared.domain.models import JsonObject
from shared.domain.states import RunStatus, StepStatus

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TENANT = "demo"
_TOKEN_S = 3_600
_POLL_S = 0.1
_TERMINATED = 128 + signal.SIGTERM


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Keep the stack's data here, not in a temporary folder.",
)
@click.option(
    "--results", type=click.Path(path_type=Path), default=Path(".orch/demo"), help="Where the results go."
)
@click.option(
    "--example",
    type=click.Choice(["environment-audit", "flaky"]),
    default="environment-audit",
    help="What to run.",
)
def demo(data_dir: Path | None, results: Path, example: str) -> None:
    """Start a stack, publish an example, run it, show its steps, keep its results, stop the stack.

    The exit status is 0 only if the run completed.
    """
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(_TERMINATED))
    begun = time.monotonic()
    with _data_folder(data_dir) as folder:
        completed = _run_on_stack(folder, example, results)
    click.echo(f"everything is stopped; it took {time.monotonic() - begun:.1f} s")
    sys.exit(0 if completed else 1)


@contextmanager
def _data_folder(data_dir: Path | None) -> Iterator[DataFolder]:
    if data_dir is not None:
        yield DataFolder(path=data_dir.resolve())
        return
    with tempfile.TemporaryDirectory(prefix="orch-demo-") as temporary:
        yield DataFolder(path=Path(temporary) / "data")


def _run_on_stack(folder: DataFolder, example: str, results: Path) -> bool:
    options = UpOptions(data_dir=str(folder.path), host="127.0.0.1", port=0, workers=1, concurrency=8)
    click.echo("starting PostgreSQL, Redis, the API, a worker and the sweeper ...")
    with launched(options) as launcher:
        url = _wait_until_up(launcher, folder)
        grant = Grant(
            subject="demo",
            tenants=[TENANT],
            operator=False,
            scopes=["orchestrator:read", "orchestrator:write", "orchestrator:admin"],
            ttl_s=_TOKEN_S,
        )
        with Client(url, token=mint(folder.keys, grant), tenant=TENANT) as client:
            return run_example(client, EXAMPLES / example, _inputs(example), results)


def _wait_until_up(launcher: Launcher, folder: DataFolder) -> str:
    if not launcher.wait_until_up():
        raise CommandError("the stack did not start")
    url: str = json.loads(folder.stack_file.read_text(encoding="utf-8"))["url"]
    return url


def run_example(client: Client, folder: Path, inputs: JsonObject, results: Path) -> bool:
    """Publish the DAG of an example, run it and keep its results; tell whether the run completed."""
    try:
        document = (folder / "dag.json").read_bytes()
    except OSError as error:
        raise CommandError(f"the example is not there: {error}") from error
    client.publish(document)
    run_id = client.start_run(json.loads(document)["dagId"], inputs)
    click.echo(f"{folder.name}: run {run_id}")
    run = _watch(client, run_id)
    _report(run)
    _keep(client, run, results.resolve() / run_id)
    return run.status == RunStatus.COMPLETED


def _inputs(example: str) -> JsonObject:
    if example == "flaky":
        return {"release": "works"}
    return {"python": sys.executable, "scripts": str(EXAMPLES / example / "scripts")}


def _watch(client: Client, run_id: str) -> RunView:
    with progress(Console()) as show:
        while True:
            run = client.run(run_id)
            show(run)
            if run.status != RunStatus.RUNNING:
                return run
            time.sleep(_POLL_S)


def _report(run: RunView) -> None:
    click.echo(f"the run {run.status}")
    for step in run.steps:
        if step.status == StepStatus.FAILED:
            click.echo(f"  {step.step_id}: {step.error_code}: {step.error_message}")


def _keep(client: Client, run: RunView, target: Path) -> None:
    """Copy the files that the steps wrote into a folder that stays, one folder a step, and list them."""
    kept: list[Path] = []
    for step in run.steps:
        if step.status != StepStatus.SUCCEEDED:
            continue
        for file in client.output_files(run.run_id, step.step_id):
            path = (target / step.step_id / file.name).resolve()
            if not path.is_relative_to(target):
                raise CommandError(f"step {step.step_id} has a file with the name {file.name!r}")
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download(file.sha256, path)
            kept.append(path)
    if kept:
        click.echo(f"results in {target}:")
        for path in kept:
            click.echo(f"  {path.relative_to(target)} ({path.stat().st_size:,} bytes)")
