"""Show a run as it goes: a live table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator_cli.client import RunView, StepView
from shared.domain.states import StepStatus

_STYLES = {
    StepStatus.PENDING: "dim",
    StepStatus.QUEUED: "cyan",
    StepStatus.RUNNING: "bold yellow",
    StepStatus.RETRYING: "magenta",
    StepStatus.SUCCEEDED: "green",
    StepStatus.FAILED: "bold red",
    StepStatus.SKIPPED: "dim",
    StepStatus.CANCELLED: "red",
}


@contextmanager
def progress(console: Console) -> Iterator[Callable[[RunView], None]]:
    """Lend a function that shows the newest state of a run."""
    if not console.is_terminal:
        yield _Lines(console).show
        return
    with Live(console=console, refresh_per_second=10) as live:
        yield lambda run: live.update(_table(run))


class _Lines:
    """Prints what has changed since it was last told."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = time.monotonic()
        self._seen: dict[str, tuple[str, int]] = {}

    def show(self, run: RunView) -> None:
        elapsed = time.monotonic() - self._begun
        for step in run.steps:
            now = (step.status, step.attempt)
            if self._seen.get(step.step_id, (StepStatus.PENDING, 0)) != now:
                self._seen[step.step_id] = now
                line = f"{elapsed:6.1f} s  {step.step_id:<16} {step.status:<10} {_remark(step)}"
                self._console.out(line.rstrip(), highlight=False)


def _table(run: RunView) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for heading in ("step", "status", "attempt", "seconds", ""):
        table.add_column(heading)
    for step in run.steps:
        status = Text(step.status, style=_STYLES[StepStatus(step.status)])
        table.add_row(step.step_id, status, str(step.attempt or ""), _seconds(step), Text(_remark(step)))
    return table


def _seconds(step: StepView) -> str:
    return "" if step.seconds is None else f"{step.seconds:.2f}"


def _remark(step: StepView) -> str:
    if step.error_message is not None:
        return step.error_message
    return step.error_code or ""
