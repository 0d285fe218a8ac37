"""The benchmark in its short form: that it works, not how fast anything is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.first_step import FIRST
from bench.ready import UNLOCKED
from bench.shapes import SHORT
from bench.steady import LOOK, START

ROOT = Path(__file__).resolve().parents[2]


def test_the_short_benchmark_measures_every_short_shape_and_writes_nothing() -> None:
    # It ends with an error unless each run completed with all of its steps.
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--short"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = {line.split(" | ")[0].removeprefix("| ") for line in done.stdout.splitlines() if " | " in line}
    assert {shape.name for shape in SHORT} | {START, LOOK} <= rows
    assert {FIRST, UNLOCKED, "wide", "10", "worker, after 80 steps", "events"} <= rows
    for table in (
        "clients that get each event",
        "milliseconds from",
        "API answers after",
        "growth",
        "calls of `orch.settle`",
        "finished runs",
    ):
        assert table in done.stdout
    assert "written to" not in done.stdout
