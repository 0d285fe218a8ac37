"""What is asked beside shapes and streams, each by its name."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from bench.budget import budget
from bench.first_step import first_step
from bench.footprint import footprint
from bench.history import SHORT_RUNS, history
from bench.orchestrator import Orchestrator
from bench.ready import ready
from bench.results import Goals
from bench.scale import scale
from bench.steady import Tell
from bench.tenants import tenants

FIRST_STEP: Final = "first-step"
READY: Final = "ready"
SCALE: Final = "scale"
TENANTS: Final = "tenants"
BUDGET: Final = "budget"
MEMORY: Final = "memory"
HISTORY: Final = "history"
GOALS: Final = (FIRST_STEP, READY, BUDGET, SCALE, TENANTS, MEMORY, HISTORY)


def measure(
    names: Collection[str],
    ours: Orchestrator,
    folder: Path,
    *,
    repeat: int,
    history_runs: int,
    short: bool,
    tell: Tell,
) -> Goals:
    """Measure those of ``GOALS`` that are named: on ``ours``, or on stacks of their own in the folder."""
    past = SHORT_RUNS if short else history_runs
    return Goals(
        first_steps=first_step(ours, short=short, tell=tell) if FIRST_STEP in names else (),
        ready=ready(ours, short=short, tell=tell) if READY in names else (),
        picks=tenants(ours, short=short, tell=tell) if TENANTS in names else (),
        scaled=scale(folder, repeat=repeat, short=short, tell=tell) if SCALE in names else (),
        budgets=budget(folder, short=short, tell=tell) if BUDGET in names else (),
        footprint=footprint(folder, short=short, tell=tell) if MEMORY in names else None,
        aged=history(folder, runs=past, repeat=repeat, short=short, tell=tell) if HISTORY in names else (),
    )
