"""What was tried and what came of it, as a table and as JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from tests.chaos.campaign import Outcome
from tests.chaos.fault import FAULTS

HEAD = (
    "| fault | how it is made | rounds | lost | first step ends after: median, longest "
    "| all runs have ended after: median, longest |\n"
    "| --- | --- | --- | --- | --- | --- |"
)


def table(outcomes: Sequence[Outcome]) -> str:
    """Write a line for each fault by itself, and one for those that overlapped."""
    alone = defaultdict[str, list[Outcome]](list)
    mixed = []
    for outcome in outcomes:
        if len(outcome.round.faults) == 1:
            alone[outcome.round.name].append(outcome)
        else:
            mixed.append(outcome)
    lines = [_line(name, FAULTS[name].how, alone[name]) for name in FAULTS if alone[name]]
    if mixed:
        lines.append(_line("three of these at once", "overlapping, in an order drawn from the seed", mixed))
    return "\n".join([HEAD, *lines])


def _line(name: str, how: str, outcomes: list[Outcome]) -> str:
    first = _times([outcome.first_completion_s for outcome in outcomes])
    ended = _times([outcome.all_ended_s for outcome in outcomes])
    return f"| {name} | {how} | {len(outcomes)} | nothing | {first} | {ended} |"


def _times(seconds: list[float]) -> str:
    return f"{median(seconds):.1f} s, {max(seconds):.1f} s"


def as_json(seed: str, outcomes: Sequence[Outcome]) -> str:
    """Write everything that was measured."""
    return json.dumps(
        {
            "seed": seed,
            "rounds": [
                {
                    "number": outcome.round.number,
                    "faults": [
                        {"name": p.fault.name, "begins_s": round(p.begins_s, 2), "ends_s": round(p.ends_s, 2)}
                        for p in outcome.round.faults
                    ],
                    "runs": outcome.runs,
                    "calls": outcome.calls,
                    "failed_calls": outcome.failed_calls,
                    "first_completion_s": round(outcome.first_completion_s, 3),
                    "all_ended_s": round(outcome.all_ended_s, 3),
                }
                for outcome in outcomes
            ],
        },
        indent=1,
    )
