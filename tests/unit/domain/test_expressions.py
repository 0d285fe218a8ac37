from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.cel_source import MAX_NESTING, MAX_TOKENS
from shared.domain.expressions import (
    ExpressionError,
    Hole,
    compile_check,
    evaluate_when,
    holes,
    holes_in,
    references,
    render,
)
from shared.domain.hashing import canonical
from shared.domain.models import Ancestor, Json, JsonObject, StepId
from shared.domain.states import StepStatus
from tests.unit.domain.test_hashing import TEXTS, VALUES

INPUTS: JsonObject = {
    "n": 2,
    "half": 0.5,
    "whole": 3.0,
    "text": "hé",
    "list": [3, 1, 2],
    "object": {"b": 1, "a": 2, "d": 3, "c": 4},
    "objects": [{"z": 1, "y": 2, "x": 3}],
    "huge": 10**20,
}
ANCESTORS: Mapping[StepId, Ancestor] = {
    StepId("fetch"): Ancestor(status=StepStatus.SUCCEEDED, outputs={"status": 200, "rows": [{"id": 7}]}),
    StepId("my-step"): Ancestor(status=StepStatus.SKIPPED, outputs={}),
}


def _value(source: str, inputs: JsonObject = INPUTS) -> Json:
    return render({"v": "${{ " + source + " }}"}, inputs=inputs, ancestors=ANCESTORS)["v"]


def _text(template: str) -> Json:
    return render({"v": template}, inputs=INPUTS, ancestors=ANCESTORS)["v"]


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("inputs.n", 2),
        ("inputs.half", 0.5),
        ("inputs.list", [3, 1, 2]),
        ("null", None),
        ("inputs.n == 2", True),
        ("steps.fetch.outputs.status", 200),
        ("steps.fetch.outputs.rows[0].id + 1", 8),
        ('steps["my-step"].status', "skipped"),
        ("steps['my-step'].outputs", {}),
        ("\"a\" + inputs.text + 'b'", "ahéb"),
        ("has(steps.fetch.outputs.nope) ? 1 : 2", 2),
        ("inputs.list.filter(x, x > 1).map(x, x * 2)", [6, 4]),
        ("inputs.list.map(x, inputs.list.map(y, x * y))", [[9, 3, 6], [3, 1, 2], [6, 2, 4]]),
        ("inputs.list + [4]", [3, 1, 2, 4]),
        ("[1] + inputs.list.map(x, x + inputs.n)", [1, 5, 3, 4]),
        ('inputs.text.matches("^h.$")', True),
        ('["a1", "b"].filter(t, t.matches("[0-9]"))', ["a1"]),
        ('timestamp("2026-11-21T00:00:00Z").getFullYear()', 2026),
        ("type(inputs.n) == int", True),
        ('{"a": {"b": "}}"}}', {"a": {"b": "}}"}}),
        ('r\'\\\' + """a"b"""', '\\a"b'),
        ("// a comment\n 1", 1),
        ("true || inputs.nope", True),
    ],
)
def test_an_expression_alone_gives_its_value(source: str, value: Json) -> None:
    found = _value(source)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("n=${{ inputs.n }}", "n=2"),
        ("${{ inputs.text }}${{ inputs.text }}", "héhé"),
        (" ${{ null }}", " null"),
        ("${{ inputs.object }}.", '{"a":2,"b":1,"c":4,"d":3}.'),
        ("${{ inputs.half }}/${{ inputs.whole }}/${{ inputs.huge }}", "0.5/3/100000000000000000000"),
        ("no expression: $ {{ 1 }} }} {{ $", "no expression: $ {{ 1 }} }} {{ $"),
        ('the sign itself: ${{ "${{" }}', "the sign itself: ${{"),
    ],
)
def test_expressions_within_a_text_give_text(template: str, text: str) -> None:
    assert _text(template) == text


def test_all_texts_are_rendered_and_keys_are_not() -> None:
    params: JsonObject = {"${{ k }}": [{"a": "${{ inputs.n }}"}, 1, None, True, 1.5, "plain"], "e": {}}
    assert render(params, inputs=INPUTS, ancestors={}) == {
        "${{ k }}": [{"a": 2}, 1, None, True, 1.5, "plain"],
        "e": {},
    }


@given(st.dictionaries(TEXTS.filter(lambda text: "${{" not in text), VALUES, max_size=4))
def test_what_has_no_expression_stays_as_it_is(params: dict[str, Json]) -> None:
    if "${{" not in canonical(params).decode():
        assert render(params, inputs={}, ancestors={}) == params


@given(VALUES)
def test_a_value_comes_through_as_what_it_is_in_json(value: Json) -> None:
    rendered = render({"v": "${{ inputs.v }}"}, inputs={"v": value}, ancestors={})
    assert canonical(rendered) == canonical({"v": value})


@given(VALUES)
def test_within_a_text_a_value_is_canonical_json_or_the_text_itself(value: Json) -> None:
    rendered = render({"v": "<${{ inputs.v }}>"}, inputs={"v": value}, ancestors={})["v"]
    assert rendered == f"<{value if isinstance(value, str) else canonical(value).decode()}>"


@given(st.lists(TEXTS.filter(lambda text: "$" not in text and "{" not in text), min_size=1, max_size=5))
def test_text_around_expressions_is_kept_to_the_character(parts: list[str]) -> None:
    template = "${{ inputs.n }}".join(["", *parts])
    assert render({"v": template + "."}, inputs={"n": "N"}, ancestors={})["v"] == "N".join(["", *parts]) + "."


def test_numbers_that_are_equal_in_json_are_equal_in_an_expression() -> None:
    for n in (2, 2.0):
        assert _value("inputs.n + 1", {"n": n}) == 3
        assert _value("inputs.n == 2 && inputs.n < 2.5", {"n": n}) is True


@pytest.mark.parametrize(
    "source",
    [
        "inputs.object.map(k, k)",
        "inputs.object.filter(k, k != 'a')",
        "inputs.objects.map(o, o.map(k, k))",
        "{'q': 1, 'p': 2, 'o': 3}.map(k, k)",
        "dyn(inputs.object).map(k, k)",
        "[inputs.object][0].map(k, inputs.object[k])",
    ],
)
def test_the_members_of_an_object_always_come_in_the_order_of_their_keys(source: str) -> None:
    values = {canonical(_value(source)) for _ in range(20)}
    assert len(values) == 1
    keys = _value("inputs.object.map(k, k)")
    assert keys == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "source",
    ["[1] + inputs.object", "inputs.list + {'a': 1}", "[1] + (true ? inputs.object : {})",
     "[1] + dyn(inputs.object)",
     "inputs.objects.map(o, [1] + o)", "[1] + [inputs.object][0]", "[1] + inputs . object // end\n",
     "true || [1] + inputs.object == []"],
)  # fmt: skip
def test_an_object_is_not_added_to_a_list(source: str) -> None:
    if source.startswith("true"):
        assert _value(source) is True
    else:
        with pytest.raises(ExpressionError, match="an object cannot be added"):
            _value(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("inputs.nope", "there is no member 'nope'"),
        ("steps.other.status", "there is no member 'other'"),
        ("inputs.list[9]", "index"),
        ("inputs.n / 0", "division by zero"),
        ("inputs.n + 'a'", "int"),
        ("1.0 / 0.0", "inf"),
        ("0.0 / 0.0", "nan"),
        ("9007199254740991 + 1", "beyond 2"),
        ("9223372036854775807 + 1", "overflow"),
        ("b'a'", "bytes"),
        ("duration('1s')", "a duration"),
        ("[timestamp('2026-01-01T00:00:00Z')]", "a timestamp"),
        ("{1: 2}", "no text"),
        ("'a'.matches('(')", "regex"),
        ("'a'.matches(1)", "matches"),
        ("'a'.matches()", "matches"),
        ("inputs.text.startsWith()", ""),
    ],
)
def test_what_has_no_value_in_json_is_an_error(source: str, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        _value(source)
    assert message in str(caught.value)
    assert len(str(caught.value)) <= 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "", " ", "1 +", "(1", "1)", "(1]", '"a', "'a\n'", "a", "inputs.a.", ".inputs", "inputs ? 1 : 2 :",
        "steps", "steps.size()",
        "steps[inputs.n]", 'steps["\\x61"]', 'steps["A"]', 'steps[r"A"]', "steps.a.b", "steps.map(k, k)",
        "inputs.x + steps", "x.steps",
        "nope()", "inputs.nope()", "optional.none()", "cel.bind(x, 1, x)", "matches('a', 'b')",
        "bool('true')", "now()",
        "Foo{a: 1}", "inputs{a: 1}", "[1].map(x)", "[1].map(1, x)", "[1].all(i, v, true)",
        "[1].map(inputs, 1)", "[1].map(int, 1)",
        "[1].map(x, y)", "[x].map(x, x)", "[1].map(x, x) == x", "`a`", "inputs.`a`", "inputs.?a",
        "inputs[?'a']", "1u", "uint(1)",
        "inputs @ 1", "\ud800", "'\ud800'", "é", "/* a */ 1", "inputs.range_0_()", "1 = 1", "inputs; 1",
        "'" + "a" * 4_096 + "'", "[" * (MAX_NESTING + 1) + "]" * (MAX_NESTING + 1),
        "+".join("1" * MAX_TOKENS), "1" + "é" * 5_000,
    ],
    ids=ascii,
)  # fmt: skip
def test_what_cannot_work_is_refused_before_it_runs(source: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_check(source)
    assert str(caught.value)
    assert len(str(caught.value)) <= 500


@pytest.mark.parametrize(
    ("source", "ancestors", "inputs"),
    [
        ("1", [], False),
        ("inputs.a", [], True),
        ("steps.a.status", ["a"], False),
        ("steps . a . status == steps\n['b-c'].outputs.x", ["a", "b-c"], False),
        ('steps["""d.e"""].status', ["d.e"], False),
        ("steps[r'f'].status", ["f"], False),
        ("'steps.a' + \"inputs\" // steps.b inputs", [], False),
        ("'it\\'s steps.a' == ''", [], False),
        ("{'inputs': 1, 'steps': 2}.inputs", [], False),
        ("[1].exists(x, steps.a.outputs.list.all(y, y == inputs.n))", ["a"], True),
        ("has(steps.a.outputs.steps.b)", ["a"], False),
        ("'''steps.a''' + r'\\' + steps.b.status", ["b"], False),
    ],
)
def test_references_are_read_from_the_source(source: str, ancestors: list[str], inputs: bool) -> None:
    found = references(source)
    assert sorted(found.ancestors) == ancestors
    assert found.inputs is inputs


def test_holes_tell_where_they_stand() -> None:
    assert holes('a ${{ 1 }} ${{"}}"}}') == (Hole(2, 10, "1"), Hole(11, 20, '"}}"'))
    assert holes("none") == ()


@pytest.mark.parametrize("text", ["${{", "${{ 1 }", "a ${{ '}}", "${{ {1: 2}}", "${{ 1 // }}"])
def test_a_hole_that_is_never_closed_is_an_error(text: str) -> None:
    with pytest.raises(ExpressionError):
        holes(text)


def test_holes_in_params_come_with_their_places() -> None:
    found = list(holes_in({"argv": ["a", "${{ 1 }} ${{ 2 }}"], "env": {"A": "${{ 3 }}"}, "bad": "${{"}))
    places = [(place, hole.source if isinstance(hole, Hole) else None) for place, hole in found]
    assert places == [("argv[1]", "1"), ("argv[1]", "2"), ("env.A", "3"), ("bad", None)]


@pytest.mark.parametrize(
    ("source", "decision"), [("inputs.n == 2", True), ("steps.fetch.status == 'failed'", False)]
)
def test_when_decides(source: str, decision: bool) -> None:
    assert evaluate_when(source, inputs=INPUTS, ancestors=ANCESTORS) is decision


@pytest.mark.parametrize("source", ["1", "'true'", "null", "inputs.list", "inputs.nope", "b''"])
def test_when_that_is_neither_true_nor_false_is_an_error(source: str) -> None:
    with pytest.raises(ExpressionError):
        evaluate_when(source, inputs=INPUTS, ancestors=ANCESTORS)


@pytest.mark.parametrize(
    "source",
    [
        "inputs.many.map(x, x)",
        "inputs.many.all(x, inputs.many.all(y, x <= 40000 || y <= 40000))",
        "inputs.many.exists(x, x in inputs.many && false)",
        "inputs.many.all(x, [x, x, x, x, x, x].map(y, y).size() == 6)",
        "[[1]]" + ".map(x, x + x)" * 60,
        "['a']" + ".map(x, x + x)" * 60,
        "[1]" + ".map(x, [x, x])" * 60,
        "[" + ",".join(["inputs.many"] * 200) + "]",
        "inputs.many.filter(x, x < 300).map(x, inputs.many)",
        "[1,2,3,4,5,6,7,8,9].all(x, 'a'.matches('\\\\pL{80}') || true)",
        "[0,1,2,3,4,5,6,7,8,9].all(a, " * 9 + "true" + ")" * 9,
    ],
    ids=lambda source: source[:40],
)
def test_work_without_end_is_stopped(source: str) -> None:
    if source.startswith("[1,2,3"):
        source = source.replace("9]", "9" + ",10" * 20 + "]")
    with pytest.raises(ExpressionError, match="too much work"):
        _value(source, {"many": list(range(40_000))})


def test_the_expressions_of_a_step_share_one_bound() -> None:
    params: JsonObject = {"list": ["${{ inputs.many }}"] * 100}
    with pytest.raises(ExpressionError, match="too much work"):
        render(params, inputs={"many": list(range(40_000))}, ancestors={})


def test_work_of_a_usual_size_is_done() -> None:
    rows: JsonObject = {
        "rows": [{"id": i, "name": f"n{i}"} for i in range(1_000)],
        "wanted": list(range(100)),
    }
    assert _value("inputs.rows.filter(r, r.id in inputs.wanted).map(r, r.name).size()", rows) == 100
    assert _value("inputs.rows.exists(r, r.name == 'n999')", rows) is True


def test_an_input_of_a_megabyte_can_be_read_and_handed_on() -> None:
    text = "x" * 1_000_000
    assert _value("inputs.text + inputs.text", {"text": text}) == text * 2


def test_the_longest_expressions_run_on_a_small_stack() -> None:
    sources = [
        "+".join(["1"] * (MAX_TOKENS // 2)),
        "!" * (MAX_TOKENS - 2) + "true",
        "-" * (MAX_TOKENS - 2) + "1",
        "inputs" + ".a" * (MAX_TOKENS // 2 - 1),
        "(" * MAX_NESTING + "1" + ")" * MAX_NESTING,
        "[1].map(x," * MAX_NESTING + "x" + ")" * MAX_NESTING,
        "true ? 1 : " * (MAX_TOKENS // 4 - 1) + "1",
    ]
    survived: list[str] = []

    def run() -> None:
        for source in sources:
            with contextlib.suppress(ExpressionError):
                _value(source)
            survived.append(source)

    before = threading.stack_size(1 << 20)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert survived == sources


@given(st.text(st.sampled_from(list("ab.steps[]()\"'\\r/{}$+,x1 \n")), max_size=30))
def test_no_source_raises_anything_but_an_expression_error(source: str) -> None:
    try:
        references(source)
        holes(source)
        _value(source)
    except ExpressionError:
        return
