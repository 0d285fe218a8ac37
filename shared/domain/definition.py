"""From a DAG definition as written to the one that is recorded: every rule, and all that is wrong at once.

The shape (types, unknown fields) was checked before. A problem names its place
as the author wrote it: ``steps[3].retry.maxAttempts``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from shared.domain import graph
from shared.domain.expressions import ExpressionError, References, holes_in, references
from shared.domain.findings import Findings
from shared.domain.hashing import NotCanonical, canonical, hash_bytes
from shared.domain.json_schema import check_schema
from shared.domain.models import DagId, DagSpec, Json, JsonObject, RetryPolicy, StepId, StepSpec
from shared.domain.normal_form import definition_of
from shared.domain.states import RunOn
from shared.domain.versions import precedence
from shared.errors import DagCycle, DuplicateStep, InvalidInput, Problem, UnknownPlugin, UnknownStep

MAX_STEPS = 10_000
MAX_EDGES = 50_000
MAX_ATTEMPTS = 100
MAX_MULTIPLIER = 10
MAX_TIMEOUT_MS = 7 * 24 * 3_600_000
MAX_DELAY_MS = MAX_TIMEOUT_MS

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_ID_RULE = "must be 1 to 128 of a-z, 0-9, '.', '_' and '-', the first a letter or digit"
_MAX_QUOTED = 128
_DEPTH_OF_WITH = 3
_DEFAULT = StepSpec(id=StepId(""), uses="", params={})
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

CheckUses = Callable[[str, JsonObject], Sequence[Problem] | None]
"""Checks a step's ``with`` against the plugin that ``uses`` names: ``None`` if there is no such plugin, else
what is wrong, each ``field`` a place within ``with`` (``argv[0]``; empty for the whole)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """What the installation has, and whether every value of the document is known to be storable."""

    check_uses: CheckUses
    pools: Collection[str]
    all_storable: bool


@dataclass(frozen=True, slots=True)
class _Read:
    """What one expression reads, and where it stands."""

    place: str
    references: References


@dataclass(frozen=True, slots=True)
class _Draft:
    """The definition as it was written, defaults filled in."""

    steps: list[StepSpec]
    edges: list[graph.Edge]
    reads: list[list[_Read]]


def build(document: JsonObject, *, check_uses: CheckUses, pools: Collection[str]) -> DagSpec:
    """Check ``document`` by all rules and give it in its normal form.

    Raises ``InvalidDag`` with all that is wrong: as the class of it that says what,
    when it is all of one kind.
    """
    findings = Findings()
    written_steps = cast("Sequence[JsonObject]", document["steps"])
    written_edges = cast("Sequence[JsonObject]", document.get("edges", ()))
    findings.check_range("steps", len(written_steps), 1, MAX_STEPS, "steps")
    findings.check_range("edges", len(written_edges), 0, MAX_EDGES, "edges")
    findings.raise_any()

    dag_id = DagId(cast("str", document["dagId"]))
    if not _ID.fullmatch(dag_id):
        findings.add("dagId", _ID_RULE)
    version = cast("str", document["version"])
    order_key = _precedence(version, findings)
    metadata = cast("JsonObject", document.get("metadata", {}))
    # One look at the whole is cheap; only where it finds something is each place looked at.
    rules = _Rules(check_uses=check_uses, pools=pools, all_storable=_is_storable(document))
    _check_metadata(metadata, rules, findings)
    steps = [_step(written, f"steps[{i}]", findings) for i, written in enumerate(written_steps)]
    reads = [_check_step(step, f"steps[{i}]", rules, findings) for i, step in enumerate(steps)]
    numbers = _numbers(steps, findings)
    edges = _edges(written_edges, numbers, findings)
    draft = _Draft(steps, edges, reads)
    order = _order(draft, numbers, complete=len(edges) == len(written_edges), findings=findings)
    findings.raise_any()
    return _spec(dag_id, version, order_key, metadata, draft, order)


def _precedence(version: str, findings: Findings) -> str:
    try:
        return precedence(version)
    except InvalidInput as error:
        findings.extend(error.problems)
        return ""


def _check_metadata(metadata: JsonObject, rules: _Rules, findings: Findings) -> None:
    if not rules.all_storable and not _check_storable("metadata", metadata, 1, findings):
        return
    schema = metadata.get("inputsSchema")
    if isinstance(schema, Mapping):
        findings.extend(check_schema(schema), within="metadata.inputsSchema")
    elif "inputsSchema" in metadata:
        findings.add("metadata.inputsSchema", "must be an object")


def _step(written: JsonObject, place: str, findings: Findings) -> StepSpec:
    """Fill in the defaults, and check the fields that need nothing but themselves."""
    retry = _retry(cast("JsonObject", written.get("retry", {})), f"{place}.retry", findings)
    step = StepSpec(
        id=StepId(cast("str", written["id"])),
        uses=cast("str", written["uses"]),
        params=cast("JsonObject", written.get("with", {})),
        when=cast("str | None", written.get("when")),
        retry=retry,
        timeout_ms=cast("int", written.get("timeoutMs", _DEFAULT.timeout_ms)),
        pool=cast("str", written.get("pool", _DEFAULT.pool)),
        run_on=_run_on(cast("str", written.get("runOn", _DEFAULT.run_on)), f"{place}.runOn", findings),
        disabled=cast("bool", written.get("disabled", _DEFAULT.disabled)),
    )
    if not _ID.fullmatch(step.id):
        findings.add(f"{place}.id", _ID_RULE)
    findings.check_range(f"{place}.timeoutMs", step.timeout_ms, 1, MAX_TIMEOUT_MS)
    return step


def _retry(written: JsonObject, place: str, findings: Findings) -> RetryPolicy:
    multiplier = cast("float", written.get("multiplier", _DEFAULT.retry.multiplier))
    policy = RetryPolicy(
        max_attempts=cast("int", written.get("maxAttempts", _DEFAULT.retry.max_attempts)),
        initial_delay_ms=cast("int", written.get("initialDelayMs", _DEFAULT.retry.initial_delay_ms)),
        max_delay_ms=cast("int", written.get("maxDelayMs", _DEFAULT.retry.max_delay_ms)),
        multiplier=int(multiplier) if multiplier == int(multiplier) else multiplier,
    )
    findings.check_range(f"{place}.maxAttempts", policy.max_attempts, 1, MAX_ATTEMPTS)
    findings.check_range(f"{place}.initialDelayMs", policy.initial_delay_ms, 0, MAX_DELAY_MS)
    findings.check_range(f"{place}.maxDelayMs", policy.max_delay_ms, 0, MAX_DELAY_MS)
    findings.check_range(f"{place}.multiplier", policy.multiplier, 1, MAX_MULTIPLIER)
    return policy


def _run_on(written: str, place: str, findings: Findings) -> RunOn:
    try:
        return RunOn(written)
    except ValueError:
        findings.add(place, "must be one of " + ", ".join(RunOn))
        return RunOn.SUCCESS


def _check_step(step: StepSpec, place: str, rules: _Rules, findings: Findings) -> list[_Read]:
    """Check what a step asks of the installation, and give what its expressions read."""
    if step.pool not in rules.pools:
        findings.add(f"{place}.pool", f"there is no pool {_quoted(step.pool)}")
    if not rules.all_storable and not _check_storable(f"{place}.with", step.params, _DEPTH_OF_WITH, findings):
        return []
    problems = rules.check_uses(step.uses, step.params)
    if problems is None:
        findings.add(f"{place}.uses", f"there is no plugin {_quoted(step.uses)}", UnknownPlugin)
    else:
        findings.extend(problems, within=f"{place}.with")
    reads: list[_Read] = []
    if step.when is not None and (
        rules.all_storable or _check_storable(f"{place}.when", step.when, 1, findings)
    ):
        _read(f"{place}.when", step.when, reads, findings)
    for within, hole in holes_in(step.params):
        where = f"{place}.with.{within}"
        if isinstance(hole, ExpressionError):
            findings.add(where, str(hole))
        else:
            _read(where, hole.source, reads, findings)
    return reads


def _read(place: str, source: str, reads: list[_Read], findings: Findings) -> None:
    try:
        reads.append(_Read(place, references(source)))
    except ExpressionError as error:
        findings.add(place, str(error))


def _is_storable(document: JsonObject) -> bool:
    """Tell whether all of ``document`` has a canonical form that PostgreSQL can hold."""
    try:
        written = canonical(document)
        return rb"\u0000" not in written or not _NUL.search(written)
    except NotCanonical:
        return False


def _check_storable(place: str, value: Json, depth: int, findings: Findings) -> bool:
    """Check that ``value``, ``depth`` levels down, has a canonical form, and one that PostgreSQL can hold."""
    for _ in range(depth):
        value = [value]
    try:
        if not _NUL.search(canonical(value)):
            return True
        findings.add(place, "a text has the character U+0000")
    except NotCanonical as error:
        findings.add(place, str(error))
    return False


def _numbers(steps: Sequence[StepSpec], findings: Findings) -> dict[StepId, int]:
    """Number the steps as written, and find ids that come twice."""
    numbers: dict[StepId, int] = {}
    for i, step in enumerate(steps):
        first = numbers.setdefault(step.id, i)
        if first != i:
            findings.add(f"steps[{i}].id", f"{_quoted(step.id)} is also steps[{first}]", DuplicateStep)
    return numbers


def _edges(
    written: Sequence[JsonObject], numbers: Mapping[StepId, int], findings: Findings
) -> list[graph.Edge]:
    """Give the edges that hold, as numbers of steps as written."""
    edges: dict[graph.Edge, int] = {}
    for i, edge in enumerate(written):
        before, after = cast("StepId", edge["from"]), cast("StepId", edge["to"])
        source, target = numbers.get(before), numbers.get(after)
        if source is None:
            findings.add(f"edges[{i}].from", f"there is no step {_quoted(before)}", UnknownStep)
        if target is None:
            findings.add(f"edges[{i}].to", f"there is no step {_quoted(after)}", UnknownStep)
        if source is None or target is None:
            continue
        if source == target:
            findings.add(f"edges[{i}]", f"{_quoted(before)} cannot come before itself")
        elif (first := edges.setdefault((source, target), i)) != i:
            findings.add(f"edges[{i}]", f"is the same as edges[{first}]")
    return list(edges)


def _order(draft: _Draft, numbers: Mapping[StepId, int], *, complete: bool, findings: Findings) -> list[int]:
    """Put the steps in order, and check that expressions name ancestors.

    Both only as far as the rest is sound: of steps that cannot be told apart or
    edges that lead nowhere, more problems would follow that are none.
    """
    for reads in draft.reads:
        for read in reads:
            for named in sorted(read.references.ancestors):
                if named not in numbers:
                    findings.add(read.place, f"there is no step {_quoted(named)}", UnknownStep)
    if len(numbers) < len(draft.steps):
        return []
    try:
        order = graph.topological_order([step.id for step in draft.steps], draft.edges)
    except DagCycle as error:
        findings.add_cycle(error)
        return []
    if complete and any(read.references.ancestors for reads in draft.reads for read in reads):
        _check_ancestors(draft, numbers, order, findings)
    return order


def _check_ancestors(
    draft: _Draft, numbers: Mapping[StepId, int], order: Sequence[int], findings: Findings
) -> None:
    ranks = _ranks(order)
    before = graph.ancestors(len(order), _ranked(draft.edges, ranks))
    for i, reads in enumerate(draft.reads):
        for read in reads:
            for named in sorted(read.references.ancestors):
                if named in numbers and not before[ranks[i]] >> ranks[numbers[named]] & 1:
                    findings.add(read.place, f"{_quoted(named)} does not come before this step")


def _spec(
    dag_id: DagId, version: str, order_key: str, metadata: JsonObject, draft: _Draft, order: Sequence[int]
) -> DagSpec:
    steps = tuple(draft.steps[i] for i in order)
    ranks = _ranks(order)
    rank_of = {step.id: rank for rank, step in enumerate(steps)}
    edges = tuple(_ranked(draft.edges, ranks))
    definition = definition_of(dag_id, version, steps, edges, metadata)
    written = canonical(definition)
    reads = [[read.references for read in draft.reads[i]] for i in order]
    return DagSpec(
        dag_id=dag_id,
        version=version,
        steps=steps,
        edges=edges,
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


def _quoted(text: str) -> str:
    return repr(text[:_MAX_QUOTED])
