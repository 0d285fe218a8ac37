from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.graph import Edge, ancestors, indexes, only_predecessors, topological_order
from shared.domain.models import StepId, StepSpec
from shared.domain.states import RunOn
from shared.errors import DagCycle

SIZES = st.integers(1, 9)


@st.composite
def graphs(draw: st.DrawFn, *, cyclic: bool = False) -> tuple[list[StepId], list[Edge]]:
    """Draw ids in any order, and edges: any at all, or only those along a hidden order."""
    size = draw(SIZES)
    ids = [StepId(f"s{number}") for number in draw(st.permutations(range(size)))]
    hidden = draw(st.permutations(range(size)))
    pairs = [(a, b) for i, a in enumerate(hidden) for b in (hidden if cyclic else hidden[i + 1 :]) if a != b]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return ids, edges


@given(graphs())
def test_predecessors_come_first_and_among_the_ready_the_smallest_id(
    graph: tuple[list[StepId], list[Edge]],
) -> None:
    ids, edges = graph
    left = set(range(len(ids)))
    for index in topological_order(ids, edges):
        ready = [i for i in left if not any(a in left for a, b in edges if b == i)]
        assert ids[index] == min(ids[i] for i in ready)
        left.remove(index)
    assert not left


@given(graphs(), st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_how_the_graph_was_written(
    graph: tuple[list[StepId], list[Edge]], random: st.DataObject
) -> None:
    ids, edges = graph
    shuffled = list(range(len(ids)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # Hypothesis gives a random.Random.
    place = {old: new for new, old in enumerate(shuffled)}
    other_ids = [ids[old] for old in shuffled]
    other_edges = [(place[a], place[b]) for a, b in reversed(edges)]
    first = [ids[i] for i in topological_order(ids, edges)]
    assert [other_ids[i] for i in topological_order(other_ids, other_edges)] == first


@given(graphs(cyclic=True))
def test_either_there_is_an_order_or_the_cycle_that_is_shown_is_one(
    graph: tuple[list[StepId], list[Edge]],
) -> None:
    ids, edges = graph
    cycle: tuple[str, ...] = ()
    try:
        order = topological_order(ids, edges)
    except DagCycle as error:
        cycle = error.cycle
    else:
        assert all(order.index(a) < order.index(b) for a, b in edges)
        return
    named = {(ids[a], ids[b]) for a, b in edges}
    assert all(pair in named for pair in itertools.pairwise(cycle))
    assert cycle[0] == cycle[-1] == min(cycle)
    assert len(set(cycle)) == len(cycle) - 1 > 0


@given(graphs())
def test_ancestors_are_all_that_can_be_reached_backwards(graph: tuple[list[StepId], list[Edge]]) -> None:
    ids, edges = graph
    rank = {index: place for place, index in enumerate(topological_order(ids, edges))}
    ranked = [(rank[a], rank[b]) for a, b in edges]
    for step, bits in enumerate(ancestors(len(ids), ranked)):
        reached: set[int] = set()
        left = [step]
        while left:
            current = left.pop()
            before = {a for a, b in ranked if b == current} - reached
            reached |= before
            left.extend(before)
        assert indexes(bits) == sorted(reached)


def _ids(count: int) -> list[StepId]:
    return [StepId(f"s{i:05}") for i in range(count)]


def test_a_chain_of_10_000_steps_is_ordered_without_recursion() -> None:
    chain = [(i, i - 1) for i in range(1, 10_000)]
    assert topological_order(_ids(10_000), chain) == list(reversed(range(10_000)))


def test_a_cycle_of_10_000_steps_is_found_and_told_in_few_words() -> None:
    ring = [(i, (i + 1) % 10_000) for i in range(10_000)]
    with pytest.raises(DagCycle) as caught:
        topological_order(_ids(10_000), ring)
    assert len(caught.value.cycle) == 10_001
    assert len(str(caught.value)) < 500


def test_the_time_grows_with_the_edges_and_not_with_their_square() -> None:
    def seconds(count: int) -> float:
        ids = _ids(count)
        edges = [(i, i + step) for step in range(1, 6) for i in range(count - step)]
        started = time.process_time()
        topological_order(ids, edges)
        return time.process_time() - started

    small = min(seconds(1_000) for _ in range(5))
    large = min(seconds(10_000) for _ in range(5))
    assert large < 50 * small


@given(graphs())
def test_a_step_is_certain_behind_its_only_predecessor(graph: tuple[list[StepId], list[Edge]]) -> None:
    ids, edges = graph
    steps = [StepSpec(id=step, uses="noop", params={}) for step in ids]
    before = [[a for a, b in edges if b == index] for index in range(len(ids))]
    assert only_predecessors(steps, edges) == [found[0] if len(found) == 1 else None for found in before]


@pytest.mark.parametrize(
    ("changes", "certain"),
    [
        ({"when": "true"}, False),
        ({"disabled": True}, False),
        ({"concurrency_key": "k"}, False),
        ({"run_on": RunOn.FAILURE}, False),
        ({"run_on": RunOn.ALWAYS}, True),
    ],
)
def test_a_step_that_may_wait_or_be_skipped_is_not_certain(changes: dict[str, Any], certain: bool) -> None:
    first = StepSpec(id=StepId("a"), uses="noop", params={})
    second = replace(first, id=StepId("b"), **changes)
    assert only_predecessors([first, second], [(0, 1)]) == [None, 0 if certain else None]
