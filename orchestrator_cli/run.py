"""`orch run`: start runs, wait for them, and follow what happens."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TextIO, TypeVar, cast

import click

from orchestrator_cli.client import Client
from orchestrator_cli.errors import CommandError
from orchestrator_cli.event_stream import EventStream
from orchestrator_cli.export_line import Wrong, hash_of, parse
from shared.domain.models import JsonObject
from shared.domain.states import RunStatus, StepStatus

F = TypeVar("F", bound=Callable[..., None])

EXIT_OF: Final[Mapping[str, int]] = MappingProxyType(
    {RunStatus.COMPLETED: 0, RunStatus.FAILED: 4, RunStatus.CANCELLED: 5}
)
"""The exit status of `orch run start --wait` by the run's end."""
EXIT_INTERRUPTED: Final = 130
_PATIENCE_S: Final = 60.0
"""For a start, and for the last look at a run, while the server is out of reach."""


@click.group()
def run() -> None:
    """Start runs, wait for them, and follow what happens."""


def _connecting(command: F) -> F:
    """Give a command the options that say which server, and a client in place of them."""

    @click.option(
        "--url", envvar="ORCH_URL", default="http://127.0.0.1:8080", help="The server.  [env: ORCH_URL]"
    )
    @click.option(
        "--token",
        envvar="ORCH_TOKEN",
        help="The bearer token; better in the environment, where no list of processes shows it."
        "  [env: ORCH_TOKEN]",
    )
    @click.option(
        "--token-file",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="A file that holds it instead.",
    )
    @click.option("--tenant", envvar="ORCH_TENANT", required=True, help="For whom.  [env: ORCH_TENANT]")
    @wraps(command)
    def connected(
        *, url: str, token: str | None, token_file: Path | None, tenant: str, **options: Any
    ) -> None:
        if token_file is not None:
            # What is no ASCII becomes what is no token, either.
            token = token_file.read_text(encoding="ascii", errors="replace")
        token = (token or "").strip()
        if not token:
            raise click.UsageError("give a token: ORCH_TOKEN, --token-file or --token")
        with (
            _ended_by_hand(),
            Client(url, token=token, tenant=tenant, patience_s=_PATIENCE_S, tell=_tell) as client,
        ):
            command(client, **options)

    return cast(F, connected)


@run.command()
@_connecting
@click.option("--dag-id", help="Only events of this DAG.")
@click.option(
    "--status",
    type=click.Choice([status.value for status in RunStatus]),
    help="Only of runs in this state just then.",
)
@click.option("--run-id", help="Only of this run.")
@click.option("--after", metavar="CURSOR", help="From the event behind this cursor on; 0: from the first.")
def stream(
    client: Client, *, dag_id: str | None, status: str | None, run_id: str | None, after: str | None
) -> None:
    """Print events as they happen, a line of JSON each, until interrupted.

    Every event comes once, whatever is restarted meanwhile. The cursor in the last line goes on
    from there another time (--after).
    """
    named = {"dagId": dag_id, "status": status, "runId": run_id}
    filters = {name: value for name, value in named.items() if value is not None}
    try:
        for line in EventStream(client, filters, after=after, tell=_tell):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)


@run.command()
@_connecting
@click.argument("dag_id")
@click.option("--version", help="The version; the highest active one when not given.")
@click.option("--inputs", "inputs_text", metavar="JSON", help="The inputs, as an object.")
@click.option(
    "--inputs-file", type=click.File("rb"), metavar="FILE", help="The same from a file, or - for stdin."
)
@click.option("--run-token", help="Names this start for good: with the same token it is the same run.")
@click.option(
    "--wait", is_flag=True, help="Wait for the end: exit status 0 completed, 4 failed, 5 cancelled."
)
def start(
    client: Client,
    *,
    dag_id: str,
    version: str | None,
    inputs_text: str | None,
    inputs_file: Any,
    run_token: str | None,
    wait: bool,
) -> None:
    """Start a run of DAG_ID and print its id.

    With --wait, what happens is told on the standard error, through restarts of the server. The
    exit status tells the end also when nobody reads what is printed.
    """
    if inputs_text is not None and inputs_file is not None:
        raise click.UsageError("give either --inputs or --inputs-file")
    inputs = _inputs(inputs_text if inputs_file is None else inputs_file.read())
    run_id = client.start_run(dag_id, inputs, version=version, run_token=run_token)
    _print(run_id, sys.stdout)
    if not wait:
        return
    try:
        status = _wait(client, run_id)
    except (KeyboardInterrupt, CommandError):
        _tell(f"run {run_id} goes on without being waited for")
        raise
    if status != RunStatus.COMPLETED:
        _explain(client, run_id)
    sys.exit(EXIT_OF[status])


def _inputs(text: str | bytes | None) -> JsonObject:
    if text is None:
        return {}
    try:
        inputs = parse(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)
        hash_of(inputs, "the object")
    except Wrong as error:
        raise CommandError(f"what was given as inputs: {error}") from error
    return inputs


def _wait(client: Client, run_id: str) -> str:
    """Tell what happens in a run until it ends; give its status then."""
    begun: datetime | None = None
    for line in EventStream(client, {"runId": run_id}, after="0", tell=_tell):
        event = json.loads(line)
        now = datetime.fromisoformat(event["timestamp"])
        begun = begun or now
        if "stepId" in event:
            attempt = f" (attempt {event['attempt']})" if event["attempt"] > 1 else ""
            what = f"{event['stepId']:<16} {event['stepStatus']}{attempt}"
        else:
            what = event["type"].replace(".", " ")
        _tell(f"{(now - begun).total_seconds():6.1f} s  {what}")
        if event["status"] in EXIT_OF:
            return str(event["status"])
    raise AssertionError("a stream has no end")


def _explain(client: Client, run_id: str) -> None:
    """Tell which steps failed, and why; how the run ended is known without."""
    try:
        steps = client.run(run_id).steps
    except CommandError as error:
        _tell(f"which steps failed cannot be told: {error.message}")
        return
    for step in steps:
        if step.status == StepStatus.FAILED:
            message = "" if step.error_message is None else f": {step.error_message}"
            _tell(f"{step.step_id}: {step.error_code}{message}")


@contextmanager
def _ended_by_hand() -> Iterator[None]:
    """End quietly when the person has had enough."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _tell(text: str) -> None:
    _print(text, sys.stderr)


def _print(text: str, stream: TextIO) -> None:
    """Print for whoever still reads: that nobody does must not pass for the end of a run."""
    try:
        click.echo(text, file=stream)
    except BrokenPipeError:
        _discard(stream)


def _discard(stream: TextIO) -> None:
    """Let go what is printed from now on, and what Python has not written yet."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
