"""From a DAG definition as written to the one that is recorded: every rule, and all that is wrong at once.

The shape (types, unknown fields) was checked before; ``null`` stands where something was
misshapen, and what would need that is not checked. A problem names its place as the
author wrote it: ``steps[3].retry.maxAttempts``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from shared.domain import graph
from shared.domain.findings import Findings
from shared.domain.hashing import canonical, hash_bytes
from shared.domain.json_schema import check_schema
from shared.domain.models import DagId, DagSpec, Json, JsonObject, StepId, StepSpec
from shared.domain.normal_form import definition_of
from shared.domain.step_rules import (
    ID,
    ID_RULE,
    MAX_CONCURRENCY,
    MAX_QUOTED,
    NOT_KNOWN,
    CheckUses,
    Read,
    Rules,
    check_given,
    check_step,
    check_storable,
    is_storable,
    object_of,
    quoted,
    read_step,
)
from shared.domain.versions import precedence
from shared.errors import DagCycle, DuplicateStep, InvalidInput, UnknownStep

MAX_STEPS = 10_000
MAX_EDGES = 50_000


@dataclass(frozen=True, slots=True)
class _Draft:
    """The definition as it was written, defaults filled in."""

    steps: list[StepSpec]
    reads: list[list[Read]]
    numbers: Mapping[StepId, int]
    """Each id's step, by its place as written; of two steps with one id the first."""
    all_named: bool
    """Whether every step has an id: else an id that no step has may be that of such a one."""


@dataclass(frozen=True, slots=True)
class _Edges:
    """The edges that hold, as numbers of steps as written, and whether those are all that were meant."""

    pairs: list[graph.Edge]
    complete: bool


def build(
    document: JsonObject,
    *,
    check_uses: CheckUses,
    pools: Collection[str],
    findings: Findings | None = None,
) -> DagSpec:
    """Check ``document`` by all rules and give it in its normal form.

    Raises ``InvalidDag`` with all that is wrong, ``findings`` from before included: as
    the class of it that says what, when it is all of one kind.
    """
    findings = Findings() if findings is None else findings
    written_steps = cast("Sequence[JsonObject | None] | None", document.get("steps"))
    written_edges = cast("Sequence[JsonObject | None] | None", document.get("edges", ()))
    _check_counts(written_steps, written_edges, findings)
    check_given(document, ("dagId", "version", "steps"), "", findings)

    dag_id = cast("DagId | None", document.get("dagId"))
    if dag_id is not None and not ID.fullmatch(dag_id):
        findings.add("dagId", ID_RULE)
    version = cast("str | None", document.get("version"))
    order_key = "" if version is None else _precedence(version, findings)
    metadata = object_of(document, "metadata")
    # One look at the whole is cheap; only where it finds something is each place looked at.
    rules = Rules(check_uses=check_uses, pools=pools, all_storable=is_storable(document))
    _check_metadata(metadata, rules, findings)
    draft = _draft(written_steps, rules, findings)
    edges = _edges(written_edges, draft, findings)
    order = _order(draft, edges, findings)
    findings.raise_any()
    return _spec(DagId(cast("str", dag_id)), cast("str", version), order_key, metadata, draft, edges, order)


def _check_counts(steps: Sequence[Json] | None, edges: Sequence[Json] | None, findings: Findings) -> None:
    """Check how many there are, and go no further when there are too many."""
    if steps is not None:
        findings.check_range("steps", len(steps), 1, MAX_STEPS, "steps")
    if edges is not None:
        findings.check_range("edges", len(edges), 0, MAX_EDGES, "edges")
    if len(steps or ()) > MAX_STEPS or len(edges or ()) > MAX_EDGES:
        findings.raise_any()


def _draft(written: Sequence[JsonObject | None] | None, rules: Rules, findings: Findings) -> _Draft:
    """Check each step by itself, and number them."""
    steps: list[StepSpec] = []
    reads: list[list[Read]] = []
    numbers: dict[StepId, int] = {}
    for i, known in enumerate(written or ()):
        place = f"steps[{i}]"
        step = NOT_KNOWN if known is None else read_step(known, place, findings)
        reads.append([] if known is None else check_step(step, known, place, rules, findings))
        steps.append(step)
        first = numbers.setdefault(step.id, i) if step.id else i
        if first != i:
            findings.add(f"{place}.id", f"{quoted(step.id)} is also steps[{first}]", DuplicateStep)
    all_named = written is not None and all(step.id for step in steps)
    return _Draft(steps, reads, numbers, all_named)


def _precedence(version: str, findings: Findings) -> str:
    try:
        return precedence(version)
    except InvalidInput as error:
        findings.extend(error.problems)
        return ""


def _check_metadata(metadata: JsonObject, rules: Rules, findings: Findings) -> None:
    if not rules.all_storable and not check_storable("metadata", metadata, 1, findings):
        return
    schema = metadata.get("inputsSchema")
    if isinstance(schema, Mapping):
        findings.extend(check_schema(schema), within="metadata.inputsSchema")
    _check_concurrency(metadata, findings)


def _check_concurrency(metadata: JsonObject, findings: Findings) -> None:
    """Check how many steps with which key may run at a time.

    A limit whose key no step has does no harm: one list may serve all DAGs of a tenant.
    """
    for key, most in object_of(metadata, "concurrencyLimits").items():
        place = f"metadata.concurrencyLimits.{key[:MAX_QUOTED]}"
        if not ID.fullmatch(key):
            findings.add(place, f"the key {ID_RULE}")
        elif type(most) is not int:
            findings.add(place, "must be an integer")
        else:
            findings.check_range(place, most, 1, MAX_CONCURRENCY)


def _edges(written: Sequence[JsonObject | None] | None, draft: _Draft, findings: Findings) -> _Edges:
    """Check the edges, as far as it is known what they name."""
    number_of = draft.numbers.get
    edges: dict[graph.Edge, int] = {}
    complete = written is not None
    for i, edge in enumerate(written or ()):
        known = edge or {}
        before = number_of(cast("StepId", known.get("from")))
        after = number_of(cast("StepId", known.get("to")))
        if before is None or after is None:
            complete = False
            _check_ends(known, f"edges[{i}]", draft, findings)
        elif before == after:
            findings.add(f"edges[{i}]", f"{quoted(draft.steps[before].id)} cannot come before itself")
        elif (first := edges.setdefault((before, after), i)) != i:
            findings.add(f"edges[{i}]", f"is the same as edges[{first}]")
    return _Edges(list(edges), complete)


def _check_ends(edge: JsonObject, place: str, draft: _Draft, findings: Findings) -> None:
    """Check that an edge names steps that there are, or may be."""
    for name in ("from", "to"):
        step_id = cast("StepId | None", edge.get(name))
        if draft.all_named and step_id is not None and step_id not in draft.numbers:
            findings.add(f"{place}.{name}", f"there is no step {quoted(step_id)}", UnknownStep)


def _order(draft: _Draft, edges: _Edges, findings: Findings) -> list[int]:
    """Put the steps in order, and check that expressions name ancestors.

    Both only as far as the rest is sound: of steps that cannot be told apart or
    edges that lead nowhere, more problems would follow that are none.
    """
    named = [
        (i, read, step_id)
        for i, reads in enumerate(draft.reads)
        for read in reads
        for step_id in sorted(read.references.ancestors)
    ]
    if draft.all_named:
        for _, read, step_id in named:
            if step_id not in draft.numbers:
                findings.add(read.place, f"there is no step {quoted(step_id)}", UnknownStep)
    if len(draft.numbers) < sum(1 for step in draft.steps if step.id):
        return []
    try:
        order = graph.topological_order([step.id for step in draft.steps], edges.pairs)
    except DagCycle as error:
        findings.add_cycle(error)
        return []
    if edges.complete and named:
        ranks = _ranks(order)
        before = graph.ancestors(len(order), _ranked(edges.pairs, ranks))
        for i, read, step_id in named:
            number = draft.numbers.get(step_id)
            if number is not None and not before[ranks[i]] >> ranks[number] & 1:
                findings.add(read.place, f"{quoted(step_id)} does not come before this step")
    return order


def _spec(
    dag_id: DagId,
    version: str,
    order_key: str,
    metadata: JsonObject,
    draft: _Draft,
    edges: _Edges,
    order: Sequence[int],
) -> DagSpec:
    steps = tuple(draft.steps[i] for i in order)
    ranks = _ranks(order)
    rank_of = {step.id: rank for rank, step in enumerate(steps)}
    ranked = tuple(_ranked(edges.pairs, ranks))
    definition = definition_of(dag_id, version, steps, ranked, metadata)
    written = canonical(definition)
    reads = [[read.references for read in draft.reads[i]] for i in order]
    return DagSpec(
        dag_id=dag_id,
        version=version,
        steps=steps,
        edges=ranked,
        metadata=metadata,
        refs=tuple(tuple(sorted({rank_of[named] for r in one for named in r.ancestors})) for one in reads),
        reads_inputs=tuple(any(r.inputs for r in one) for one in reads),
        definition=definition,
        canonical=written.decode(),
        spec_hash=hash_bytes(written),
        precedence=order_key,
    )


def _ranks(order: Sequence[int]) -> list[int]:
    """Give for each step as written its place in ``order``."""
    ranks = [0] * len(order)
    for rank, i in enumerate(order):
        ranks[i] = rank
    return ranks


def _ranked(edges: Sequence[graph.Edge], ranks: Sequence[int]) -> list[graph.Edge]:
    return sorted((ranks[source], ranks[target]) for source, target in edges)
