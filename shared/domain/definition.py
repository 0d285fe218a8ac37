"""From a DAG definition as written to the one that is recorded: every rule, and all that is wrong at once.

The shape (types, unknown fields) was checked before; ``null`` stands where something was
misshapen, and what would need that is not checked. A problem names its place as the
author wrote it: ``steps[3].retry.maxAttempts``.
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
_NOT_KNOWN = _DEFAULT
"""In place of a step that is misshapen as a whole."""
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
    reads: list[list[_Read]]
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
    _check_given(document, ("dagId", "version", "steps"), "", findings)

    dag_id = cast("DagId | None", document.get("dagId"))
    if dag_id is not None and not _ID.fullmatch(dag_id):
        findings.add("dagId", _ID_RULE)
    version = cast("str | None", document.get("version"))
    order_key = "" if version is None else _precedence(version, findings)
    metadata = _object(document, "metadata")
    # One look at the whole is cheap; only where it finds something is each place looked at.
    rules = _Rules(check_uses=check_uses, pools=pools, all_storable=_is_storable(document))
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


def _check_given(written: JsonObject, names: Sequence[str], within: str, findings: Findings) -> None:
    for name in names:
        if name not in written:
            findings.add(within + name, "must be given")


def _member(written: JsonObject, name: str, default: Json) -> Json:
    """Give a member, or its default: also where it is not known, and its default then stands in for it."""
    value = written.get(name)
    return default if value is None else value


def _object(written: JsonObject, name: str) -> JsonObject:
    return cast("JsonObject", _member(written, name, {}))


def _draft(written: Sequence[JsonObject | None] | None, rules: _Rules, findings: Findings) -> _Draft:
    """Check each step by itself, and number them."""
    steps: list[StepSpec] = []
    reads: list[list[_Read]] = []
    numbers: dict[StepId, int] = {}
    for i, known in enumerate(written or ()):
        place = f"steps[{i}]"
        step = _NOT_KNOWN if known is None else _step(known, place, findings)
        reads.append([] if known is None else _check_step(step, known, place, rules, findings))
        steps.append(step)
        first = numbers.setdefault(step.id, i) if step.id else i
        if first != i:
            findings.add(f"{place}.id", f"{_quoted(step.id)} is also steps[{first}]", DuplicateStep)
    all_named = written is not None and all(step.id for step in steps)
    return _Draft(steps, reads, numbers, all_named)


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


def _step(written: JsonObject, place: str, findings: Findings) -> StepSpec:
    """Fill in the defaults, and check the fields that need nothing but themselves.

    An id or plugin that is not known is ``""``.
    """
    _check_given(written, ("id", "uses"), f"{place}.", findings)
    step = StepSpec(
        id=StepId(cast("str", _member(written, "id", ""))),
        uses=cast("str", _member(written, "uses", "")),
        params=_object(written, "with"),
        when=cast("str | None", written.get("when")),
        retry=_retry(_object(written, "retry"), f"{place}.retry", findings),
        timeout_ms=cast("int", _member(written, "timeoutMs", _DEFAULT.timeout_ms)),
        pool=cast("str", _member(written, "pool", _DEFAULT.pool)),
        run_on=_run_on(cast("str", _member(written, "runOn", _DEFAULT.run_on)), f"{place}.runOn", findings),
        disabled=cast("bool", _member(written, "disabled", _DEFAULT.disabled)),
    )
    if step.id and not _ID.fullmatch(step.id):
        findings.add(f"{place}.id", _ID_RULE)
    findings.check_range(f"{place}.timeoutMs", step.timeout_ms, 1, MAX_TIMEOUT_MS)
    return step


def _retry(written: JsonObject, place: str, findings: Findings) -> RetryPolicy:
    if not written:
        return _DEFAULT.retry
    multiplier = cast("float", _member(written, "multiplier", _DEFAULT.retry.multiplier))
    policy = RetryPolicy(
        max_attempts=cast("int", _member(written, "maxAttempts", _DEFAULT.retry.max_attempts)),
        initial_delay_ms=cast("int", _member(written, "initialDelayMs", _DEFAULT.retry.initial_delay_ms)),
        max_delay_ms=cast("int", _member(written, "maxDelayMs", _DEFAULT.retry.max_delay_ms)),
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


def _check_step(
    step: StepSpec, written: JsonObject, place: str, rules: _Rules, findings: Findings
) -> list[_Read]:
    """Check what a step asks of the installation, and give what its expressions read."""
    if step.pool not in rules.pools and written.get("pool", "") is not None:
        findings.add(f"{place}.pool", f"there is no pool {_quoted(step.pool)}")
    if not rules.all_storable and not _check_storable(f"{place}.with", step.params, _DEPTH_OF_WITH, findings):
        return []
    problems = rules.check_uses(step.uses, step.params) if step.uses else ()
    if problems is None:
        findings.add(f"{place}.uses", f"there is no plugin {_quoted(step.uses)}", UnknownPlugin)
    elif written.get("with", {}) is not None:
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
            findings.add(f"edges[{i}]", f"{_quoted(draft.steps[before].id)} cannot come before itself")
        elif (first := edges.setdefault((before, after), i)) != i:
            findings.add(f"edges[{i}]", f"is the same as edges[{first}]")
    return _Edges(list(edges), complete)


def _check_ends(edge: JsonObject, place: str, draft: _Draft, findings: Findings) -> None:
    """Check that an edge names steps that there are, or may be."""
    for name in ("from", "to"):
        step_id = cast("StepId | None", edge.get(name))
        if draft.all_named and step_id is not None and step_id not in draft.numbers:
            findings.add(f"{place}.{name}", f"there is no step {_quoted(step_id)}", UnknownStep)


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
                findings.add(read.place, f"there is no step {_quoted(step_id)}", UnknownStep)
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
                findings.add(read.place, f"{_quoted(step_id)} does not come before this step")
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


def _quoted(text: str) -> str:
    return repr(text[:_MAX_QUOTED])
