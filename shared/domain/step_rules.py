"""What a step of a definition must obey by itself, whatever the others are."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import cast

from shared.domain.expressions import ExpressionError, References, holes_in, references
from shared.domain.findings import Findings
from shared.domain.hashing import NotCanonical, canonical
from shared.domain.models import Json, JsonObject, RetryPolicy, StepId, StepSpec
from shared.domain.states import RunOn
from shared.errors import Problem, UnknownPlugin

MAX_ATTEMPTS = 100
MAX_MULTIPLIER = 10
MAX_TIMEOUT_MS = 7 * 24 * 3_600_000
MAX_DELAY_MS = MAX_TIMEOUT_MS
MAX_CONCURRENCY = 10_000

ID_PATTERN = "^[a-z0-9][a-z0-9._-]{0,127}$"
ID = re.compile(ID_PATTERN)
ID_RULE = "must be 1 to 128 of a-z, 0-9, '.', '_' and '-', the first a letter or digit"
MAX_QUOTED = 128
_DEPTH_OF_WITH = 3
_DEFAULT = StepSpec(id=StepId(""), uses="", params={})
NOT_KNOWN = _DEFAULT
"""In place of a step that is misshapen as a whole."""
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

CheckUses = Callable[[str, JsonObject], Sequence[Problem] | None]
"""Checks a step's ``with`` against the plugin that ``uses`` names: ``None`` if there is no such plugin, else
what is wrong, each ``field`` a place within ``with`` (``argv[0]``; empty for the whole)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the installation has, and whether every value of the document is known to be storable."""

    check_uses: CheckUses
    pools: Collection[str]
    all_storable: bool


@dataclass(frozen=True, slots=True)
class Read:
    """What one expression reads, and where it stands."""

    place: str
    references: References


def read_step(written: JsonObject, place: str, findings: Findings) -> StepSpec:
    """Fill in the defaults, and check the fields that need nothing but themselves.

    An id or plugin that is not known is ``""``.
    """
    check_given(written, ("id", "uses"), f"{place}.", findings)
    step = StepSpec(
        id=StepId(cast("str", _member(written, "id", ""))),
        uses=cast("str", _member(written, "uses", "")),
        params=object_of(written, "with"),
        when=cast("str | None", written.get("when")),
        retry=_retry(object_of(written, "retry"), f"{place}.retry", findings),
        timeout_ms=cast("int", _member(written, "timeoutMs", _DEFAULT.timeout_ms)),
        pool=cast("str", _member(written, "pool", _DEFAULT.pool)),
        run_on=_run_on(cast("str", _member(written, "runOn", _DEFAULT.run_on)), f"{place}.runOn", findings),
        disabled=cast("bool", _member(written, "disabled", _DEFAULT.disabled)),
        concurrency_key=cast("str | None", written.get("concurrencyKey")),
    )
    if step.id and not ID.fullmatch(step.id):
        findings.add(f"{place}.id", ID_RULE)
    if step.concurrency_key is not None and not ID.fullmatch(step.concurrency_key):
        findings.add(f"{place}.concurrencyKey", ID_RULE)
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


def check_step(
    step: StepSpec, written: JsonObject, place: str, rules: Rules, findings: Findings
) -> list[Read]:
    """Check what a step asks of the installation, and give what its expressions read."""
    if step.pool not in rules.pools and written.get("pool", "") is not None:
        findings.add(f"{place}.pool", f"there is no pool {quoted(step.pool)}")
    if not rules.all_storable and not check_storable(f"{place}.with", step.params, _DEPTH_OF_WITH, findings):
        return []
    problems = rules.check_uses(step.uses, step.params) if step.uses else ()
    if problems is None:
        findings.add(f"{place}.uses", f"there is no plugin {quoted(step.uses)}", UnknownPlugin)
    elif written.get("with", {}) is not None:
        findings.extend(problems, within=f"{place}.with")
    reads: list[Read] = []
    if step.when is not None and (
        rules.all_storable or check_storable(f"{place}.when", step.when, 1, findings)
    ):
        _read(f"{place}.when", step.when, reads, findings)
    for within, hole in holes_in(step.params):
        where = f"{place}.with.{within}"
        if isinstance(hole, ExpressionError):
            findings.add(where, str(hole))
        else:
            _read(where, hole.source, reads, findings)
    return reads


def _read(place: str, source: str, reads: list[Read], findings: Findings) -> None:
    try:
        reads.append(Read(place, references(source)))
    except ExpressionError as error:
        findings.add(place, str(error))


def check_given(written: JsonObject, names: Sequence[str], within: str, findings: Findings) -> None:
    for name in names:
        if name not in written:
            findings.add(within + name, "must be given")


def _member(written: JsonObject, name: str, default: Json) -> Json:
    """Give a member, or its default: also where it is not known, and its default then stands in for it."""
    value = written.get(name)
    return default if value is None else value


def object_of(written: JsonObject, name: str) -> JsonObject:
    return cast("JsonObject", _member(written, name, {}))


def is_storable(document: JsonObject) -> bool:
    """Tell whether all of ``document`` has a canonical form that PostgreSQL can hold."""
    try:
        written = canonical(document)
        return rb"\u0000" not in written or not _NUL.search(written)
    except NotCanonical:
        return False


def check_storable(place: str, value: Json, depth: int, findings: Findings) -> bool:
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


def quoted(text: str) -> str:
    return repr(text[:MAX_QUOTED])
