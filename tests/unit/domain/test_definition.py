from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.definition import MAX_EDGES, MAX_STEPS, build
from shared.domain.findings import MAX_PROBLEMS
from shared.domain.hashing import hash_json
from shared.domain.models import DagSpec, Json, JsonObject, RetryPolicy, StepSpec
from shared.domain.states import RunOn
from shared.errors import DagCycle, DuplicateStep, InvalidDag, Problem, UnknownPlugin, UnknownStep


def _accept(uses: str, params: JsonObject) -> Sequence[Problem] | None:
    return None if uses == "nope" else []


def _build(document: JsonObject) -> DagSpec:
    return build(document, check_uses=_accept, pools=("default", "gpu"))


def _dag(steps: Sequence[JsonObject], edges: Sequence[tuple[str, str]] = (), **more: Json) -> JsonObject:
    return {
        "dagId": "d",
        "version": "1.0.0",
        "steps": steps,
        "edges": [{"from": source, "to": target} for source, target in edges],
        **more,
    }


def _step(id: str, **more: Json) -> JsonObject:  # noqa: A002  # It is the field's name.
    return {"id": id, "uses": "noop", **more}


def _chain(count: int, step: Callable[[int], JsonObject]) -> JsonObject:
    return _dag([step(i) for i in range(count)], [(f"s{i - 1:05}", f"s{i:05}") for i in range(1, count)])


def _plain(i: int) -> JsonObject:
    return _step(f"s{i:05}")


def test_defaults_are_filled_in() -> None:
    spec = _build({"dagId": "d", "version": "1.0.0", "steps": [{"id": "a", "uses": "noop"}]})
    assert spec.steps == (
        StepSpec(
            id=spec.steps[0].id,
            uses="noop",
            params={},
            when=None,
            retry=RetryPolicy(max_attempts=1, initial_delay_ms=1_000, max_delay_ms=60_000, multiplier=2),
            timeout_ms=3_600_000,
            pool="default",
            run_on=RunOn.SUCCESS,
            disabled=False,
        ),
    )
    assert spec.definition == {
        "dagId": "d",
        "version": "1.0.0",
        "steps": [
            {
                "id": "a",
                "uses": "noop",
                "with": {},
                "retry": {"maxAttempts": 1, "initialDelayMs": 1_000, "maxDelayMs": 60_000, "multiplier": 2},
                "timeoutMs": 3_600_000,
                "pool": "default",
                "runOn": "success",
                "disabled": False,
            }
        ],
        "edges": [],
        "metadata": {},
    }
    assert spec.spec_hash == hash_json(spec.definition)


def test_what_each_step_reads_is_known() -> None:
    spec = _build(
        _dag(
            [
                _step(
                    "c",
                    when="steps.a.status == 'failed'",
                    **{"with": {"x": ["${{ steps.b.outputs.n }}", "${{ inputs.n }}"]}},
                ),
                _step("b", **{"with": {"x": "${{ steps.a.outputs.n }}"}}),
                _step("a"),
            ],
            [("a", "b"), ("b", "c")],
        )
    )
    assert [step.id for step in spec.steps] == ["a", "b", "c"]
    assert spec.edges == ((0, 1), (1, 2))
    assert spec.refs == ((), (0,), (0, 1))
    assert spec.reads_inputs == (False, False, True)


@st.composite
def documents(draw: st.DrawFn) -> JsonObject:
    """Draw a sound definition: any graph, any fields left out or given."""
    size = draw(st.integers(1, 6))
    ids = [f"s{i}" for i in draw(st.permutations(range(size)))]
    pairs = [(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :]]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    optional: dict[str, st.SearchStrategy[Json]] = {
        "with": st.dictionaries(
            st.sampled_from("abc"),
            st.integers().filter(lambda n: abs(n) < 2**53) | st.just("${{ inputs.n }}"),
        ),
        "when": st.just("inputs.n == 1"),
        "retry": st.fixed_dictionaries(
            {}, optional={"maxAttempts": st.integers(1, 100), "multiplier": st.sampled_from([1, 1.5, 2.0])}
        ),
        "timeoutMs": st.integers(1, 10_000),
        "pool": st.sampled_from(["default", "gpu"]),
        "runOn": st.sampled_from(["success", "failure", "always"]),
        "disabled": st.booleans(),
    }
    steps: list[JsonObject] = [
        {**_step(name), **draw(st.fixed_dictionaries({}, optional=optional))}
        for name in draw(st.permutations(ids))
    ]
    return _dag(steps, edges, metadata=draw(st.dictionaries(st.sampled_from(["owner", "x"]), st.text("ab"))))


def _shuffled(value: Json, rng: random.Random) -> Json:
    """Write every object's members in another order."""
    if isinstance(value, Mapping):
        keys = list(value)
        rng.shuffle(keys)
        return {key: _shuffled(value[key], rng) for key in keys}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_shuffled(member, rng) for member in value]
    return value


@given(documents(), st.integers())
def test_the_same_definition_written_in_another_order_has_the_same_hash(
    document: JsonObject, seed: int
) -> None:
    rng = random.Random(seed)
    other = dict(document)
    for name in ("steps", "edges"):
        members = list(document[name])  # type: ignore[arg-type]  # Both are lists.
        rng.shuffle(members)
        other[name] = members
    written = _shuffled(other, rng)
    assert isinstance(written, Mapping)
    assert _build(written) == _build(document)


@given(documents())
def test_the_normal_form_is_a_definition_with_that_normal_form(document: JsonObject) -> None:
    spec = _build(document)
    stored = json.loads(json.dumps(spec.definition))
    assert _build(stored) == spec


@given(documents())
def test_another_definition_has_another_hash(document: JsonObject) -> None:
    spec = _build(document)
    others = [
        {**document, "dagId": "e"},
        {**document, "version": "1.0.1"},
        {**document, "metadata": {"new": 1}},
        {**document, "steps": [*spec.definition["steps"], _step("new")]},  # type: ignore[misc]  # It is a list.
    ]
    hashes = {_build(other).spec_hash for other in others}
    assert len(hashes) == len(others)
    assert spec.spec_hash not in hashes


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (_dag([_step("a"), _step("a")]), DuplicateStep),
        (_dag([_step("a")], [("a", "b"), ("c", "a")]), UnknownStep),
        (_dag([_step("a", when="steps.b.status == ''")]), UnknownStep),
        (_dag([_step("a", uses="nope"), _step("b", uses="nope")]), UnknownPlugin),
        (_dag([_step("a"), _step("b")], [("a", "b"), ("b", "a")]), DagCycle),
        (_dag([_step("a", uses="nope")], [("a", "b")]), InvalidDag),
        (_dag([_step("a", timeoutMs=0)]), InvalidDag),
    ],
)
def test_the_class_of_the_error_tells_what_is_wrong_when_all_is_of_one_kind(
    document: JsonObject, error: type[InvalidDag]
) -> None:
    with pytest.raises(InvalidDag) as caught:
        _build(document)
    assert type(caught.value) is error


def test_problems_that_only_follow_from_others_are_not_told() -> None:
    with pytest.raises(InvalidDag) as caught:
        _build(_dag([_step("a"), _step("b", when="steps.a.status == ''")], [("x", "b")]))
    assert [problem.field for problem in caught.value.problems] == ["edges[0].from"]


def test_a_flood_of_problems_is_counted_and_cut() -> None:
    with pytest.raises(InvalidDag) as caught:
        _build(_dag([_step("a", uses="nope", pool="p" * 10_000) for _ in range(5_000)]))
    assert len(caught.value.problems) == MAX_PROBLEMS
    assert caught.value.found == 14_999
    assert sum(len(problem.field) + len(problem.message) for problem in caught.value.problems) < 30_000


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (_dag([_step("a")] * (MAX_STEPS + 1)), "steps"),
        (_dag([_step("a")] * 100_000), "steps"),
        (_dag([_step("a")], [("a", "b")] * (MAX_EDGES + 1)), "edges"),
    ],
)
def test_counts_are_checked_before_anything_else(document: JsonObject, field: str) -> None:
    with pytest.raises(InvalidDag) as caught:
        _build(document)
    assert [problem.field for problem in caught.value.problems] == [field]


def test_the_largest_definition_is_built_in_time_that_grows_with_its_size() -> None:
    def seconds(count: int) -> float:
        document = _chain(count, _plain)
        started = time.process_time()
        _build(document)
        return time.process_time() - started

    small = min(seconds(1_000) for _ in range(3))
    large = min(seconds(10_000) for _ in range(3))
    assert large < 40 * small


def test_a_chain_of_10_000_steps_that_each_read_the_one_before_is_built() -> None:
    def reading(i: int) -> JsonObject:
        return _step(f"s{i:05}", **({"when": f"steps.s{i - 1:05}.outputs.n == 1"} if i else {}))

    spec = _build(_chain(MAX_STEPS, reading))
    assert spec.refs[-1] == (MAX_STEPS - 2,)
    with pytest.raises(InvalidDag) as caught:
        _build(_chain(MAX_STEPS, lambda i: _step(f"s{i:05}", when="steps.s09999.outputs.n == 1")))
    assert caught.value.found == MAX_STEPS
