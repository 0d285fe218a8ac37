"""Break a stack of its own, round after round, until the time is over: `make chaos`."""

from __future__ import annotations

import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import click

from tests.chaos import report
from tests.chaos.campaign import Broken, Outcome, running_campaign
from tests.chaos.faults import FAULTS
from tests.chaos.plan import Round, rounds


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--seed", default="", help="Makes the same faults and clients again; drawn if not given.")
@click.option(
    "--minutes", type=float, default=3.0, envvar="CHAOS_MINUTES", help="How long; rounds are finished."
)
@click.option("--only", multiple=True, help="Only faults whose names contain this; may be repeated.")
@click.option("--round", "number", type=int, help="Only this round of the seed.")
@click.option("--together", is_flag=True, help="Three overlapping faults in every round.")
@click.option("--out", type=click.Path(path_type=Path), help="Write what was measured to a file, as JSON.")
@click.option("--list", "listed", is_flag=True, help="List the faults, and do nothing.")
def main(
    seed: str, minutes: float, only: tuple[str, ...], number: int | None, together: bool, out: Path | None,
    listed: bool,
) -> None:  # fmt: skip
    """Break a stack of its own while clients use it, and hold it to what must hold."""
    chosen = [fault for fault in FAULTS.values() if not only or any(part in fault.name for part in only)]
    if listed or not chosen:
        for fault in chosen or FAULTS.values():
            click.echo(f"{fault.name}: {fault.how}")
        sys.exit(not chosen)
    seed = seed or secrets.token_hex(4)
    click.echo(f"seed {seed}")
    plan = rounds(seed, chosen, together=together)
    if number is not None:
        plan = islice(plan, number - 1, number)
    folder = Path(tempfile.mkdtemp(prefix="orch-chaos-"))
    outcomes: list[Outcome] = []
    try:
        outcomes.extend(conducted(folder, plan, minutes))
    except Broken as broken:
        options = "".join(f" --only '{part}'" for part in only) + (" --together" if together else "")
        for problem in broken.problems:
            click.echo(f"  {problem}", err=True)
        click.echo(f"again: python -m tests.chaos --seed {seed}{options}\nkept: {folder}", err=True)
        sys.exit(1)
    finally:
        click.echo(report.table(outcomes))
        if out is not None:
            out.write_text(report.as_json(seed, outcomes))
    shutil.rmtree(folder)
    runs, calls = sum(o.runs for o in outcomes), sum(o.calls for o in outcomes)
    failed = sum(o.failed_calls for o in outcomes)
    click.echo(
        f"{len(outcomes)} rounds, {runs} runs, {calls} calls ({failed} without an answer or 503): "
        "nothing lost, nothing done twice"
    )


def conducted(folder: Path, plan: Iterator[Round], minutes: float) -> Iterator[Outcome]:
    """Conduct the rounds of a plan until the time is over, on one stack in ``folder``."""
    until = time.monotonic() + 60 * minutes
    with running_campaign(folder, click.echo) as campaign:
        for each in plan:
            outcome = campaign.conduct(each)
            click.echo(
                f"  {outcome.runs} runs, {outcome.calls} calls, {outcome.failed_calls} failed; a step ended "
                f"after {outcome.first_completion_s:.1f} s, all runs after {outcome.all_ended_s:.1f} s"
            )
            yield outcome
            if time.monotonic() > until:
                break
        for line in campaign.lived_long():
            click.echo(line)


if __name__ == "__main__":
    main()
