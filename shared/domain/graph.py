"""Order, cycles and ancestors of a DAG whose steps are named by index. No recursion: depth may be 10,000."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from shared.domain.models import StepId, StepSpec
from shared.domain.states import RunOn
from shared.errors import DagCycle

Edge = tuple[int, int]
"""From a predecessor to its successor."""


def topological_order(ids: Sequence[StepId], edges: Iterable[Edge]) -> list[int]:
    """List the indexes so that every predecessor comes first; of those that could be next, the smallest id.

    ``ids`` must differ from one another. Raises ``DagCycle`` with one of the cycles.
    """
    successors: list[list[int]] = [[] for _ in ids]
    predecessors: list[list[int]] = [[] for _ in ids]
    for source, target in edges:
        successors[source].append(target)
        predecessors[target].append(source)
    open_predecessors = [len(p) for p in predecessors]
    ready = [(ids[i], i) for i, count in enumerate(open_predecessors) if count == 0]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, index = heapq.heappop(ready)
        order.append(index)
        for successor in successors[index]:
            open_predecessors[successor] -= 1
            if open_predecessors[successor] == 0:
                heapq.heappush(ready, (ids[successor], successor))
    if len(order) < len(ids):
        raise DagCycle(_cycle(ids, predecessors, [i for i, count in enumerate(open_predecessors) if count]))
    return order


def _cycle(
    ids: Sequence[StepId], predecessors: Sequence[Sequence[int]], left: Sequence[int]
) -> tuple[str, ...]:
    """Walk backwards from the smallest id that was left over until a step comes again.

    Each step that is left over has a predecessor that is left over too, so the
    walk never ends outside a cycle.
    """
    among = set(left)
    walked: dict[int, int] = {}
    path: list[int] = []
    index = min(left, key=lambda i: ids[i])
    while index not in walked:
        walked[index] = len(path)
        path.append(index)
        index = min((p for p in predecessors[index] if p in among), key=lambda i: ids[i])
    forwards = [ids[i] for i in reversed(path[walked[index] :])]
    first = forwards.index(min(forwards))
    return (*forwards[first:], *forwards[:first], forwards[first])


def ancestors(count: int, edges: Iterable[Edge]) -> list[int]:
    """Give for each step the set of all steps before it, as an integer with one bit per index.

    Steps must be numbered in topological order, so that each edge goes upwards.
    10,000 steps take at most 12.5 MB.
    """
    found = [0] * count
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        found[target] |= found[source] | 1 << source
    return found


def only_predecessors(steps: Sequence[StepSpec], edges: Iterable[Edge]) -> list[int | None]:
    """Give the one predecessor of each step that is unlocked for certain once that has succeeded.

    There is no other predecessor, no ``when``, and no concurrency key whose place is to be waited for.
    """
    found: list[int | None] = [None] * len(steps)
    several: set[int] = set()
    for source, target in edges:
        if found[target] is not None:
            several.add(target)
        found[target] = source
    return [
        None if index in several or not _is_certain(steps[index]) else source
        for index, source in enumerate(found)
    ]


def _is_certain(step: StepSpec) -> bool:
    waits = step.when is not None or step.concurrency_key is not None
    return not (waits or step.disabled or step.run_on is RunOn.FAILURE)


def indexes(bits: int) -> list[int]:
    """List the members of a set that ``ancestors`` gave, ascending."""
    members = []
    while bits:
        lowest = bits & -bits
        members.append(lowest.bit_length() - 1)
        bits ^= lowest
    return members
