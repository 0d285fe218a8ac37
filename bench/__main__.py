"""Measure: ``python -m bench``, or ``make bench``."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from bench import goals, history, machine, report
from bench.canvas import PREFORK, THREADS, Pool
from bench.celery_peer import CeleryPeer, celery_peers
from bench.dbos_peer import dbos_peer
from bench.measure import compare, grow
from bench.orchestrator import Orchestrator, orchestrator
from bench.peer_process import PeerProcess, PeerPython, find_python
from bench.prefect_peer import prefect_peer
from bench.results import Latency, Results, Streams
from bench.shapes import LARGE, SHAPES, SHORT, Shape
from bench.steady import CONNECTIONS, SECONDS, SHORT_SECONDS, steady
from bench.stream import CROWDS, SHORT_CROWD, stream
from bench.stream_replay import PASTS, SHORT_PAST, replay
from bench.stream_storm import SHORT_STORM, STORMS, storm
from bench.subject import BenchError

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
STEADY = "steady"
STREAM = "stream"
ALL = (*SHAPES, *LARGE, STEADY, STREAM, *goals.GOALS)
CELERY = "celery"
INSTALLED_APART = {"dbos": dbos_peer, "prefect": prefect_peer}
"""Peers that are measured where they are asked for, by the package's name."""
PEERS = (CELERY, *INSTALLED_APART)


def _chosen(_ctx: click.Context, param: click.Parameter, names: str) -> tuple[str, ...]:
    known = PEERS if param.name == "peers" else ALL
    chosen = tuple(name.strip() for name in names.split(","))
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise click.BadParameter(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
    return chosen


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--shapes", callback=_chosen, default=",".join(ALL), help="Which to measure, with commas between."
)
@click.option("--repeat", type=click.IntRange(1, 100), default=7, help="Rounds, after those that warm up.")
@click.option(
    "--short", is_flag=True, help="Small shapes, one round, nothing written: only prove that it works."
)
@click.option(
    "--peers",
    callback=_chosen,
    default=CELERY,
    help=f"Beside Celery, which is always there, with commas between: {', '.join(INSTALLED_APART)}.",
)
@click.option("--no-peers", is_flag=True, help="Measure the Orchestrator alone, and write nothing.")
@click.option(
    "--history-runs",
    type=click.IntRange(1),
    default=history.RUNS,
    help="Finished runs in the ledger that is held against an empty one.",
)
def main(
    *,
    shapes: tuple[str, ...],
    repeat: int,
    short: bool,
    peers: tuple[str, ...],
    no_peers: bool,
    history_runs: int,
) -> None:
    """Measure shapes of work through the REST API, and through Celery's canvas and other peers.

    A call that measures every shape, with its peers, writes docs/benchmarks.md.
    """
    described = {**machine.describe(), "Load before the start": machine.load()}
    names = () if no_peers else tuple(dict.fromkeys((CELERY, *peers)))
    try:
        pythons = [find_python(name, os.environ) for name in names if name in INSTALLED_APART]
        results = _measure(
            shapes,
            1 if short else repeat,
            short=short,
            celery=not no_peers,
            pythons=pythons,
            past=history_runs,
        )
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    if pythons:
        described["Peers"] = ", ".join(f"{python.package} {python.version}" for python in pythons)
    click.echo("\n" + "\n\n".join(report.tables(results)))
    if shapes == ALL and not short and not no_peers:
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(_document(results, described, repeat), encoding="utf-8")
        click.echo(f"\nwritten to {DOCUMENT}")


def _measure(
    names: tuple[str, ...],
    repeat: int,
    *,
    short: bool,
    celery: bool,
    pythons: Sequence[PeerPython],
    past: int,
) -> Results:
    compared: tuple[Shape, ...] = SHORT if short else tuple(SHAPES[name] for name in names if name in SHAPES)
    grown = () if short else tuple(LARGE[name] for name in names if name in LARGE)
    with tempfile.TemporaryDirectory(prefix="orch-bench-") as temporary:
        folder = Path(temporary)
        pools = (PREFORK, THREADS) if celery else ()
        with _peers(folder, pools, pythons) as others, orchestrator(folder / "data") as ours:
            for other in others:
                other.wait_until_ready()
            return Results(
                comparisons=[
                    compare(shape, ours, others, repeat=repeat, tell=click.echo) for shape in compared
                ],
                growths=[grow(large, small, ours, repeat=repeat, tell=click.echo) for large, small in grown],
                latencies=_latencies(ours, names, short=short),
                streams=_streams(ours, names, short=short),
                goals=goals.measure(
                    names, ours, folder, repeat=repeat, history_runs=past, short=short, tell=click.echo
                ),
            )


@contextmanager
def _peers(
    folder: Path, pools: tuple[Pool, ...], pythons: Sequence[PeerPython]
) -> Iterator[list[CeleryPeer | PeerProcess]]:
    """Run the peers; they may still be starting."""
    with celery_peers(folder / "celery", pools) as of_celery, ExitStack() as stack:
        apart = [
            stack.enter_context(INSTALLED_APART[python.package](folder / python.package, python))
            for python in pythons
        ]
        yield [*of_celery, *apart]


def _latencies(ours: Orchestrator, names: Sequence[str], *, short: bool) -> list[Latency]:
    if not short and STEADY not in names:
        return []
    return steady(
        ours.more_clients(CONNECTIONS), seconds=SHORT_SECONDS if short else SECONDS, tell=click.echo
    )


def _streams(ours: Orchestrator, names: Sequence[str], *, short: bool) -> Streams | None:
    if not short and STREAM not in names:
        return None
    return Streams(
        crowds=stream(ours, (SHORT_CROWD,) if short else CROWDS, tell=click.echo),
        storms=storm(ours, SHORT_STORM if short else STORMS, tell=click.echo),
        replays=replay(ours, SHORT_PAST if short else PASTS, tell=click.echo),
    )


def _document(results: Results, described: Mapping[str, str], repeat: int) -> str:
    return report.document(
        results,
        machine=described,
        command=shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        repeat=repeat,
    )


if __name__ == "__main__":
    main()
