"""`orch ledger verify` and the example that shares no code with it agree on any file, and are right."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shared.domain.hashing import NotCanonical, canonical, hash_json
from shared.domain.models import Json
from tests.support.exported import Export, Line, exported, manifest, script, sealed, wrong_line
from tests.support.graphs import graph
from tests.support.ledger import Ledger, succeeded
from tests.unit.domain.test_hashing import VALUES

COMPLETED, FAILED, LOST, CANCELLED, WAITING = range(5)
"""The places of the runs in the export."""
ANYWHERE = st.integers(0, 2**32)
"""A place in an export, whose length differs from day to day."""


def rows(export: Export) -> list[Line]:
    """Read the runs of an export."""
    return [json.loads(line) for line in export.splitlines()[:-1]]


def chained(run: Line) -> None:
    """Hash the events of a run anew, as somebody would who forges one."""
    head = bytes(32)
    for event in run["events"]:
        event.pop("hash", None)
        head = sha256(head + canonical(event)).digest()
        event["hash"] = head.hex()
    run["ledgerHead"] = head.hex()


def summed(run: Line) -> None:
    """Compute the outputsHash of a run anew."""
    steps = [[step["stepId"], step["status"], step["outputsHash"]] for step in run["steps"]]
    work = {"specHash": run["specHash"], "inputsHash": run["inputsHash"], "steps": steps}
    run["outputsHash"] = hash_json(work)


def test_an_export_of_every_kind_of_run_holds(export: Export) -> None:
    runs = rows(export)
    assert [run["status"] for run in runs] == ["completed", "failed", "completed", "cancelled", "running"]
    told = {step["status"] for run in runs for step in run["steps"]}
    assert told == {"succeeded", "failed", "skipped", "cancelled", "queued", "pending"}
    attempts = {a["status"] for run in runs for step in run["steps"] for a in step["attempts"]}
    assert attempts == {"succeeded", "failed", "lost", "released", "cancelled"}
    assert wrong_line(export) is None


def test_an_export_of_nothing_holds() -> None:
    assert wrong_line(manifest(b"", 0)) is None


def test_other_spellings_of_the_same_values_hold(export: Export) -> None:
    assert wrong_line(sealed(rows(export))) is None


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(somewhere=ANYWHERE, change=st.integers(1, 255))
def test_no_byte_can_be_changed(export: Export, somewhere: int, change: int) -> None:
    place = somewhere % len(export)
    changed = bytearray(export)
    changed[place] ^= change
    # What no hash of a run covers, the manifest does; before the change nothing is wrong. A run that began
    # later than it did, or in another tenant, makes the one behind it wrong.
    line = export[:place].count(b"\n") + 1
    assert wrong_line(bytes(changed)) in (line, line + 1, export.count(b"\n"))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(somewhere=ANYWHERE, removed=st.integers(0, 3), added=st.binary(max_size=3))
def test_the_two_agree_when_the_manifest_is_forged_as_well(
    export: Export, somewhere: int, removed: int, added: bytes
) -> None:
    runs = export[: export.rindex(b"\n", 0, -1) + 1]
    place = somewhere % len(runs)
    forged = runs[:place] + added + runs[place + removed :]
    wrong = wrong_line(forged + manifest(forged, export.count(b"\n") - 1))
    assert wrong is None or wrong >= runs[:place].count(b"\n") + 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(somewhere=ANYWHERE)
def test_a_truncated_file_is_wrong_where_it_ends(export: Export, somewhere: int) -> None:
    cut = export[: somewhere % len(export)]
    assert wrong_line(cut) == cut.count(b"\n") + 1


def test_lines_dropped_added_and_swapped(export: Export) -> None:
    *runs, last = export.splitlines(keepends=True)
    whole = len(runs) + 1
    assert wrong_line(b"".join(runs)) == whole, "no manifest"
    assert wrong_line(export + b"\n") == whole + 1
    assert wrong_line(export + runs[0]) == whole + 1
    assert wrong_line(export + last) == whole + 1
    assert wrong_line(last + export) == 1
    assert wrong_line(b"".join([runs[0], b"\n", *runs[1:], last])) == 2
    for number in range(len(runs)):
        assert wrong_line(b"".join([*runs[:number], *runs[number + 1 :], last])) == whole - 1
        twice = [*runs[: number + 1], runs[number], *runs[number + 1 :]]
        assert wrong_line(b"".join([*twice, manifest(b"".join(twice), len(twice))])) == number + 2
    swapped = [runs[1], runs[0], *runs[2:]]
    assert wrong_line(b"".join([*swapped, manifest(b"".join(swapped), len(swapped))])) == 2


def _set(name: str, value: object) -> Callable[[Line], None]:
    return lambda run: run.update({name: value})


def _in_step(number: int, name: str, value: object) -> Callable[[Line], None]:
    return lambda run: run["steps"][number].update({name: value})


def _in_event(number: int, name: str, value: object, *, forged: bool = False) -> Callable[[Line], None]:
    def lie(run: Line) -> None:
        run["events"][number][name] = value
        if forged:
            chained(run)

    return lie


def _without(name: str) -> Callable[[Line], None]:
    return lambda run: run.pop(name)


def _forge(lie: Callable[[Line], object]) -> Callable[[Line], None]:
    """Tell a lie, and hash all over again so that only the sense of it gives it away."""

    def tell(run: Line) -> None:
        lie(run)
        chained(run)
        if run["outputsHash"] is not None:
            summed(run)

    return tell


def _rename(run: Line) -> None:
    run["runId"] = "01a21b3c-b815-79fb-ae06-589ab6aa5ff4"


def _other_outputs(run: Line) -> None:
    step = run["steps"][0]
    step["outputs"] = {"n": 2}
    step["outputsHash"] = step["attempts"][-1]["outputsHash"] = hash_json(step["outputs"])


def _other_inputs(run: Line) -> None:
    run["inputs"] = {}
    run["inputsHash"] = hash_json({})


def _skipped_with_outputs(run: Line) -> None:
    step = next(step for step in run["steps"] if step["status"] == "skipped")
    step["outputs"] = {"n": 1}
    step["outputsHash"] = hash_json(step["outputs"])


def _moved(run: Line) -> None:
    run["events"][2], run["events"][3] = run["events"][3], run["events"][2]


def _renumbered(run: Line) -> None:
    for seq, event in enumerate(run["events"]):
        event["seq"] = seq


def _last_two_lost(run: Line) -> None:
    del run["events"][-2:]


LIES: dict[str, tuple[int, Callable[[Line], object]]] = {
    "an event changed": (COMPLETED, _in_event(3, "timestamp", "2026-01-01T00:00:00.000Z")),
    "an event changed, the chain made anew, an illegal state": (
        COMPLETED,
        _in_event(2, "stepStatus", "succeeded", forged=True),
    ),
    "an event of another run": (COMPLETED, _in_event(3, "runId", "x", forged=True)),
    "an event of another DAG": (COMPLETED, _in_event(3, "dagId", "x", forged=True)),
    "an event of another trace": (COMPLETED, _in_event(3, "traceId", "x", forged=True)),
    "an event of another tenant": (COMPLETED, _in_event(3, "tenant", "x", forged=True)),
    "an event of an unknown step": (COMPLETED, _in_event(2, "stepId", "x", forged=True)),
    "an event of an unknown type": (COMPLETED, _in_event(2, "type", "step.forged", forged=True)),
    "an event that ends too soon": (COMPLETED, _in_event(3, "type", "run.completed", forged=True)),
    "an event with another run status": (COMPLETED, _in_event(3, "status", "completed", forged=True)),
    "a beginning that is none": (COMPLETED, _in_event(0, "type", "run.updated", forged=True)),
    "an ending that is none": (COMPLETED, _in_event(-1, "type", "run.updated", forged=True)),
    "a seq that is a float": (COMPLETED, _in_event(0, "seq", 1.0, forged=True)),
    "another attempt told": (COMPLETED, _in_event(2, "attempt", 7, forged=True)),
    "an event without its hash": (COMPLETED, lambda run: run["events"][4].pop("hash")),
    "an event without a tenant": (WAITING, _forge(lambda run: run["events"][0].pop("tenant"))),
    "an event that is a text": (COMPLETED, lambda run: run["events"].__setitem__(1, "x")),
    "an event that cannot be hashed": (COMPLETED, _in_event(1, "more", "\ud800")),
    "events swapped": (COMPLETED, _moved),
    "events swapped, the chain made anew": (COMPLETED, _forge(_moved)),
    "events numbered from 0": (COMPLETED, _forge(_renumbered)),
    "an event dropped": (FAILED, lambda run: run["events"].pop(3)),
    "an event dropped, the chain made anew": (FAILED, _forge(lambda run: run["events"].pop(3))),
    "the last events dropped, the head set back": (WAITING, _forge(_last_two_lost)),
    "no events": (WAITING, _forge(lambda run: run["events"].clear())),
    "another head": (COMPLETED, _set("ledgerHead", "00" * 32)),
    "other outputs": (COMPLETED, _in_step(0, "outputs", {})),
    "other outputs, their hash made anew": (COMPLETED, _other_outputs),
    "an integer for a float of another value": (COMPLETED, _in_step(0, "outputs", {"n": 2**53 + 1})),
    "outputs too deep": (COMPLETED, _in_step(0, "outputs", {"a": json.loads("[" * 101 + "]" * 101)})),
    "outputs of a failed step": (FAILED, _in_step(0, "outputs", {})),
    "outputs that are a list": (COMPLETED, _in_step(0, "outputs", [])),
    "a skipped step with outputs": (COMPLETED, _forge(_skipped_with_outputs)),
    "a hash in capitals": (COMPLETED, lambda run: run.update(specHash=run["specHash"].upper())),
    "another specHash": (COMPLETED, _set("specHash", "00" * 32)),
    "another inputsHash": (COMPLETED, _set("inputsHash", "00" * 32)),
    "other inputs": (COMPLETED, _set("inputs", {})),
    "other inputs, their hash made anew": (COMPLETED, _other_inputs),
    "no inputs": (COMPLETED, _without("inputs")),
    "an outputsHash while it runs": (WAITING, summed),
    "no outputsHash at the end": (COMPLETED, _set("outputsHash", None)),
    "another status of a step": (CANCELLED, _forge(_in_step(2, "status", "failed"))),
    "an unknown status of a step": (WAITING, _in_step(0, "status", "lost")),
    "steps swapped": (COMPLETED, lambda run: run["steps"].reverse()),
    "a step dropped": (COMPLETED, lambda run: run["steps"].pop()),
    "a step twice": (WAITING, lambda run: run["steps"].append(run["steps"][0])),
    "no steps": (WAITING, _forge(lambda run: (run["steps"].clear(), run.update(stepCount=0)))),
    "steps that are none": (WAITING, _set("steps", [1, 2])),
    "steps in an object": (WAITING, _set("steps", {})),
    "a stepId that is a list": (WAITING, _in_step(0, "stepId", [])),
    "another number of steps": (COMPLETED, _set("stepCount", 9)),
    "a number of steps that is a float": (COMPLETED, _set("stepCount", 5.0)),
    "a number of steps that is no number": (WAITING, _set("stepCount", True)),
    "another status": (COMPLETED, _set("status", "failed")),
    "an unknown status": (COMPLETED, _set("status", "done")),
    "a completed run that was cancelled": (COMPLETED, _set("cancelRequestedUtc", "x")),
    "a cancelled run that was not": (CANCELLED, _set("cancelRequestedUtc", None)),
    "no word on cancellation": (WAITING, _without("cancelRequestedUtc")),
    "an attempt dropped": (FAILED, lambda run: run["steps"][0]["attempts"].pop()),
    "another number of attempts": (FAILED, _in_step(0, "attempt", 3)),
    "a failed attempt that succeeded": (
        FAILED,
        lambda run: run["steps"][0]["attempts"][0].update(status="succeeded"),
    ),
    "a lost attempt in an unknown state": (
        LOST,
        lambda run: run["steps"][0]["attempts"][0].update(status="gone"),
    ),
    "an attempt with other outputs": (
        COMPLETED,
        lambda run: run["steps"][0]["attempts"][0].update(outputsHash="00" * 32),
    ),
    "attempts numbered from 2": (LOST, lambda run: run["steps"][0]["attempts"][0].update(attempt=2)),
    "another runId": (COMPLETED, _rename),
    "a runId that is none": (COMPLETED, _set("runId", "\x1b[31mred")),
    "a time that is none": (COMPLETED, _set("startedUtc", "yesterday")),
    "a time in another form": (COMPLETED, _set("startedUtc", "2026-11-27T04:21:33.846+00:00")),
    "no traceId": (COMPLETED, _without("traceId")),
    "a dagId that is a number": (COMPLETED, _set("dagId", 1)),
    "a manifest in a run": (COMPLETED, _set("manifest", {})),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_a_run_is_found_in_its_line(export: Export, lie: str) -> None:
    number, tell = LIES[lie]
    runs = copy.deepcopy(rows(export))
    tell(runs[number])
    assert wrong_line(sealed(runs)) == number + 1


def test_a_manifest_that_is_not_true(export: Export) -> None:
    body, count = export[: export.rindex(b"\n", 0, -1) + 1], len(rows(export))
    digest = sha256(body).hexdigest()
    assert wrong_line(body + manifest(body, count)) is None
    claims: list[Json] = [
        {"count": count + 1, "sha256": digest},
        {"count": float(count), "sha256": digest},
        {"count": count, "sha256": digest.upper()},
        {"count": count, "sha256": digest, "more": 1},
        {"count": count},
        {"sha256": digest},
        {},
        [],
        None,
    ]
    for claimed in claims:
        assert wrong_line(body + json.dumps({"manifest": claimed}).encode() + b"\n") == count + 1
    true = {"manifest": {"count": count, "sha256": digest}, "more": 1}
    assert wrong_line(body + json.dumps(true).encode() + b"\n") == count + 1


def test_runs_of_two_tenants_do_not_make_one_export(export: Export) -> None:
    runs = rows(export)
    for event in runs[WAITING]["events"]:
        event["tenant"] = "globex"
    chained(runs[WAITING])
    assert wrong_line(sealed(runs)) == WAITING + 1


GARBAGE = {
    "empty": b"",
    "a line feed": b"\n",
    "binary": bytes(range(256)) * 10 + b"\n",
    "no UTF-8": b'{"runId": "\xff"}\n',
    "UTF-16": '{"manifest": {}}\n'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}\n",
    "a list": b"[]\n",
    "a number": b"1\n",
    "a text": b'"manifest"\n',
    "null": b"null\n",
    "an empty object": b"{}\n",
    "two objects": b"{}{}\n",
    "10,000 lists deep": b'{"runId":' + b"[" * 10_000 + b"]" * 10_000 + b"}\n",
    "10,000 objects deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"\n",
    "200 lists deep": b'{"manifest":' + b"[" * 200 + b"]" * 200 + b"}\n",
    "a key twice": b'{"manifest":{"count":0,"count":0,"sha256":"' + sha256().hexdigest().encode() + b'"}}\n',
    "a key twice, deep within": b'{"a":[{"b":{"c":1,"\\u0063":2}}]}\n',
    "NaN": b'{"manifest":{"count":NaN}}\n',
    "Infinity": b'{"manifest":{"count":-Infinity}}\n',
    "a number of 10,000 digits": b'{"manifest":{"count":' + b"9" * 10_000 + b"}}\n",
    "a number beyond all doubles": b'{"manifest":{"count":1e400}}\n',
    "a lone surrogate": b'{"runId":"\\ud800"}\n',
    "an escape for the terminal": b'{"runId":"\\u001b[2J\\u202e"}\n',
    "a control character": b'{"runId":"\x07"}\n',
    "a NUL": b'{"runId":"\\u0000"}\n',
    "CR and LF": b'{"manifest":{"count":0,"sha256":"' + sha256().hexdigest().encode() + b'"}}\r\n\r\n',
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_wrong_in_its_first_line(what: str) -> None:
    assert wrong_line(GARBAGE[what]) == (2 if what == "CR and LF" else 1)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 400, "9007199254740993", "NaN", '"\\ud800"'])
@pytest.mark.parametrize("where", ["inputs", "outputs"])
def test_what_has_no_canonical_form_cannot_be_right(export: Export, number: str, where: str) -> None:
    runs = rows(export)
    (runs[0] if where == "inputs" else runs[0]["steps"][0])[where] = {"n": "MARK"}
    assert wrong_line(sealed(runs).replace(b'"MARK"', number.encode())) == 1


@given(VALUES)
def test_both_write_the_same_canonical_json(value: Json) -> None:
    assert script.canonical(value).encode() == canonical(value)


@given(st.integers(0, 2**64 - 1))
@example(0x0000000000000001)
@example(0x7FEFFFFFFFFFFFFF)
@example(0x44B52D02C7E14AF6)
@example(0x444B1AE4D6E2EF50)
@example(0x3EB0C6F7A0B5ED8D)
@example(0x3E7AD7F29ABCAF48)
def test_both_write_the_same_numbers(bits: int) -> None:
    (value,) = struct.unpack(">d", struct.pack(">Q", bits))
    if value != value or value in (float("inf"), float("-inf")):
        with pytest.raises(NotCanonical):
            canonical(value)
        with pytest.raises(script.WrongError):
            script.canonical(value)
    else:
        assert script.canonical(value).encode() == canonical(value)


@given(
    st.integers(-(10**25), 10**25)
    | st.integers(2**53 - 3, 2**53 + 3)
    | st.integers(1, 330).map(lambda n: 10**n)
)
def test_both_take_the_same_integers(value: int) -> None:
    try:
        ours = canonical(value)
    except NotCanonical:
        with pytest.raises(script.WrongError):
            script.canonical(value)
    else:
        assert script.canonical(value).encode() == ours


def test_two_exports_are_byte_identical_and_runs_go_by_start(filled: Ledger, export: Export) -> None:
    assert exported(filled) == export
    runs = rows(export)
    assert runs == sorted(runs, key=lambda run: (run["startedUtc"], run["runId"]))
    assert export.isascii()


def test_a_run_under_way_holds_at_every_moment(ledger: Ledger) -> None:
    dag = graph("a>b b>c a>c", options={"b": {"retry": {"maxAttempts": 2, "initialDelayMs": 0}}})
    run = ledger.start(dag)
    moments = [exported(ledger)]
    for step_id in "abc":
        claim = ledger.claimed(run, step_id)
        moments.append(exported(ledger))
        ledger.complete(claim, succeeded({"step": step_id}))
        moments.append(exported(ledger))
    assert [wrong_line(moment) for moment in moments] == [None] * 7
    assert len(set(moments)) == 7
