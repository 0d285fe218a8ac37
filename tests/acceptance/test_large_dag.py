"""The largest DAGs that may be published, and a wide one run to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from tests.support.eventually import eventually
from tests.support.rest import Document
from tests.support.site import Site

pytestmark = pytest.mark.timed

LARGEST = 10_000
WIDTH = 2_000
PUBLISHED_WITHIN_S = 10.0
"""The promise is two seconds; the machine that tests may be busy."""


def noops(*step_ids: str) -> list[Document]:
    return [{"id": step_id, "uses": "noop"} for step_id in step_ids]


def test_the_largest_dag_is_published_and_started_quickly(site: Site, show: Callable[[str], None]) -> None:
    ranks = [[f"rank-{rank}-{place}" for place in range(LARGEST // 4)] for rank in range(4)]
    edges = [
        f"{source}>{target}"
        for sources, targets in pairwise(ranks)
        for place, target in enumerate(targets)
        for source in {sources[(place + far) % len(sources)] for far in range(6)}
    ]
    with site.rest() as rest:
        begun = time.monotonic()
        version = rest.publish("largest", noops(*(step for rank in ranks for step in rank)), *edges)
        published = time.monotonic() - begun
        assert version["stepCount"] == LARGEST
        begun = time.monotonic()
        run_id = rest.start("largest")
        started = time.monotonic() - begun
        show(f"{LARGEST} steps, {len(edges)} edges: published {published:.2f} s, started {started:.2f} s")
        assert published < PUBLISHED_WITHIN_S
        assert started < PUBLISHED_WITHIN_S
        rest.post(f"/runs/{run_id}:cancel", {})
        assert rest.ended(run_id)["status"] == "cancelled"


def test_a_fan_of_two_thousand_steps_comes_together_again(site: Site, show: Callable[[str], None]) -> None:
    middle = [f"m-{number}" for number in range(WIDTH)]
    with site.rest() as rest:
        edges = [edge for step in middle for edge in (f"first>{step}", f"{step}>last")]
        rest.publish("fan", noops("first", "last", *middle), *edges)
        begun = time.monotonic()
        run_id = rest.start("fan")
        eventually(lambda: not rest.get("/runs?dagId=fan&status=running")["items"], within=120)
        seconds = time.monotonic() - begun
        run = rest.run(run_id)
        assert run["status"] == "completed"
        assert {step["status"] for step in run["steps"]} == {"succeeded"}
        assert {step["attempt"] for step in run["steps"]} == {1}
        show(f"1 -> {WIDTH} -> 1: {WIDTH / seconds:.0f} steps/s")
