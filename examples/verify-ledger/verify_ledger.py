#!/usr/bin/env python3
"""Verify an export of the ledger with nothing but Python's standard library (3.11 or later).

    python3 verify_ledger.py FILE        (or - for the standard input)

Exit status 0: all holds. 1: the first line that is wrong is named. 2: the file cannot be read.

It shares no code with the orchestrator, on purpose: read it, then you need not trust us. An export is one
line of JSON a run, by startedUtc and then runId, and a last line with the number and the SHA-256 of the
lines before it. What is hashed is first written in the canonical form of RFC 8785.
"""

from __future__ import annotations

import json
import math
import re
import sys
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Never

MAX_LINE_DEPTH = 128
MAX_HASHED_DEPTH = 100
MAX_INTEGER = 2**53 - 1
HASH = r"[0-9a-f]{64}"
RUN_ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z"
ENDINGS = {"succeeded", "failed", "skipped", "cancelled"}
AFTER = {
    "pending": {"queued", "skipped", "cancelled"},
    "queued": {"running", "cancelled"},
    "running": {"succeeded", "failed", "retrying", "queued", "cancelled"},
    "retrying": {"queued", "cancelled"},
}
ATTEMPTS = {"running", "succeeded", "failed", "cancelled", "lost", "released"}


class WrongError(Exception):
    """A line is not as it must be."""


def wrong(what: str) -> Never:
    raise WrongError(what)


def check(holds: bool, what: str) -> None:
    if not holds:
        wrong(what)


# Canonical JSON: RFC 8785.


def canonical(value: Any, depth: int = 0) -> str:
    check(depth <= MAX_HASHED_DEPTH, "something that is hashed is nested too deep")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) and abs(value) <= MAX_INTEGER:
        return str(value)
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, list):
        return "[" + ",".join(canonical(item, depth + 1) for item in value) + "]"
    # Keys are sorted by their UTF-16 code units, not by their code points.
    members = sorted(value.items(), key=lambda member: member[0].encode("utf-16-be", "surrogatepass"))
    return "{" + ",".join(f"{canonical(k)}:{canonical(v, depth + 1)}" for k, v in members) + "}"


def number(value: float) -> str:
    """Write a double as ECMAScript does: the shortest digits that read back as the same double."""
    check(abs(value) <= sys.float_info.max, "a number that is hashed is no double")
    double = float(value)
    check(not isinstance(value, int) or Decimal(repr(double)) == value, "an integer is beyond 2^53 - 1")
    if double == 0:
        return "0"
    _, figures, exponent = Decimal(repr(abs(double))).normalize().as_tuple()
    digits = "".join(map(str, figures))
    point = len(digits) + int(exponent)  # Where the decimal point stands, counted from the first digit.
    if len(digits) <= point <= 21:
        text = digits + "0" * (point - len(digits))
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        mantissa = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
        text = f"{mantissa}e{point - 1:+d}"
    return f"-{text}" if math.copysign(1, double) < 0 else text


def hashed(value: Any, before: bytes = b"") -> bytes:
    try:
        return sha256(before + canonical(value).encode()).digest()
    except UnicodeEncodeError:
        wrong("a text that is hashed has half of a surrogate pair")


# Lines of JSON that have one reading only.


def parse(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)
    except ValueError:  # UnicodeDecodeError and JSONDecodeError are kinds of it.
        wrong("is not JSON in UTF-8")
    except RecursionError:
        wrong("is nested too deep")
    check(isinstance(value, dict), "is not a JSON object")
    check(depth_of(value) <= MAX_LINE_DEPTH, "is nested too deep")
    return value  # type: ignore[no-any-return]


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    check(len(dict(pairs)) == len(pairs), "has an object with a key twice")
    return dict(pairs)


def no_constant(name: str) -> Never:
    wrong(f"holds {name}, which is not JSON")


def depth_of(value: Any) -> int:
    deepest, todo = 0, [(value, 0)]
    while todo:
        item, depth = todo.pop()
        deepest = max(deepest, depth)
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        todo.extend((each, depth + 1) for each in inner)
    return deepest


def member(of: Any, name: str, kind: type, form: str = ".*") -> Any:
    """Give a member that must be there, of this type and, if it is a text, of this form."""
    check(isinstance(of, dict) and name in of, f"{name} is missing")
    value = of[name]
    check(type(value) is kind, f"{name} is of another type")
    check(kind is not str or bool(re.fullmatch(form, str(value), re.DOTALL)), f"{name} is of another form")
    return value


def null_or_hash(of: Any, name: str) -> str | None:
    check(isinstance(of, dict) and name in of, f"{name} is missing")
    return None if of[name] is None else str(member(of, name, str, HASH))


# A run.


def check_run(run: dict[str, Any]) -> tuple[str, str, str]:
    """Check a run's line; give (tenant, startedUtc, runId)."""
    inputs_hash = hashed(member(run, "inputs", dict)).hex()
    check(member(run, "inputsHash", str) == inputs_hash, "inputsHash is not the hash of inputs")
    steps = member(run, "steps", list)
    check(bool(steps), "there are no steps")
    for step in steps:
        check_step(step)
    check(member(run, "stepCount", int) == len(steps), "stepCount is not the number of steps")
    check(len({step["stepId"] for step in steps}) == len(steps), "two steps have one stepId")
    check_end(run, steps)
    tenant = check_events(run, member(run, "events", list), steps)
    return tenant, member(run, "startedUtc", str, TIME), member(run, "runId", str, RUN_ID)


def check_step(step: Any) -> None:
    status = member(step, "status", str)
    check(status in AFTER or status in ENDINGS, "a step has an unknown status")
    check("outputs" in step, "outputs is missing")
    outputs_hash, outputs = null_or_hash(step, "outputsHash"), step["outputs"]
    if status in ("succeeded", "skipped"):
        check(
            outputs_hash == hashed(member(step, "outputs", dict)).hex(), "outputsHash is not that of outputs"
        )
        check(status != "skipped" or outputs == {}, "a skipped step has outputs")
    else:
        check(outputs is None and outputs_hash is None, f"a {status} step has outputs")
    attempts = member(step, "attempts", list)
    check(member(step, "attempt", int) == len(attempts), "attempt is not the number of attempts")
    for count, attempt in enumerate(attempts, start=1):
        check(member(attempt, "attempt", int) == count, "attempts are not numbered from 1")
        won = status == "succeeded" and count == len(attempts)
        check(member(attempt, "status", str) in ATTEMPTS, "an attempt has an unknown status")
        check((attempt["status"] == "succeeded") == won, "an attempt's status does not fit its step's")
        expected = outputs_hash if won else None
        check(null_or_hash(attempt, "outputsHash") == expected, "an attempt's outputsHash is not its step's")
    member(step, "stepId", str)


def check_end(run: dict[str, Any], steps: list[dict[str, Any]]) -> None:
    status, states = member(run, "status", str), [step["status"] for step in steps]
    ended = all(state in ENDINGS for state in states)
    check("cancelRequestedUtc" in run, "cancelRequestedUtc is missing")
    if not ended:
        due = "running"
    elif run["cancelRequestedUtc"] is not None:
        due = "cancelled"
    else:
        due = "failed" if "failed" in states else "completed"
    check(status == due, "its status is not what its steps make it")
    work = {
        "specHash": member(run, "specHash", str, HASH),
        "inputsHash": run["inputsHash"],
        "steps": [[step["stepId"], step["status"], step["outputsHash"]] for step in steps],
    }
    expected = hashed(work).hex() if ended else None
    check(
        null_or_hash(run, "outputsHash") == expected,
        "outputsHash is not that of specHash, inputsHash and steps",
    )


def check_events(run: dict[str, Any], events: list[Any], steps: list[dict[str, Any]]) -> str:
    """Follow the chain of hashes and the states that the events tell of; give the tenant."""
    check(bool(events), "there are no events")
    tenant = member(events[0], "tenant", str)
    of_run = {"tenant": tenant} | {name: member(run, name, str) for name in ("runId", "dagId", "traceId")}
    told = {step["stepId"]: ("pending", 0) for step in steps}
    head = bytes(32)
    for seq, event in enumerate(events, start=1):
        stored = member(event, "hash", str, HASH)
        head = hashed({k: v for k, v in event.items() if k not in ("hash", "cursor")}, head)
        check(head.hex() == stored, f"the chain of hashes breaks at event {seq}")
        check(member(event, "seq", int) == seq, f"seq of event {seq} leaves a gap")
        for name, value in of_run.items():
            check(member(event, name, str) == value, f"{name} of event {seq} is another's")
        ends = run["status"] != "running" and seq == len(events)
        check(
            member(event, "status", str) == (run["status"] if ends else "running"),
            "an event's status is wrong",
        )
        kind = member(event, "type", str)
        kinds = {f"run.{run['status']}"} if ends else {"step.updated", "run.updated"}
        check(kind in ({"run.started"} if seq == 1 else kinds), f"event {seq} is out of place")
        if kind == "step.updated":
            follow(told, event)
    check(member(run, "ledgerHead", str) == head.hex(), "ledgerHead is not the hash of the last event")
    for step in steps:
        check(
            told[step["stepId"]] == (step["status"], step["attempt"]), "a step is not where its events led it"
        )
    return str(tenant)


def follow(told: dict[str, tuple[str, int]], event: dict[str, Any]) -> None:
    step_id, status = member(event, "stepId", str), member(event, "stepStatus", str)
    check(step_id in told, "an event tells of an unknown step")
    before, attempt = told[step_id]
    check(status in AFTER.get(before, ()), f"a step goes from {before} to a state that does not follow")
    attempt += status == "running"
    check(member(event, "attempt", int) == attempt, "an event tells of another attempt")
    told[step_id] = (status, attempt)


# The file.


def check_file(file: BinaryIO) -> str:
    digest, count, line_no, complete = sha256(), 0, 1, False
    before: tuple[str, str, str] | None = None
    try:
        for line in file:
            check(not complete, "comes after the manifest")
            check(line.endswith(b"\n"), "is cut off")
            document = parse(line[:-1])
            if "manifest" in document:
                manifest = {"count": count, "sha256": digest.hexdigest()}
                member(document["manifest"], "count", int)
                check(document == {"manifest": manifest}, "the manifest is not that of the lines before it")
                complete = True
                line_no += 1
                continue
            run = check_run(document)
            if before is not None:
                check(run[0] == before[0], "the run is another tenant's than the one before")
                check(run[1:] > before[1:], "the run does not come after the one before")
            digest.update(line)
            before, count, line_no = run, count + 1, line_no + 1
        check(complete, "is missing: the file ends before its manifest")
    except WrongError as error:
        raise WrongError(f"line {line_no}: {error}") from None
    return f"all holds: {count} runs"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: verify_ledger.py FILE (or - for the standard input)", file=sys.stderr)
        return 2
    try:
        with sys.stdin.buffer if arguments[0] == "-" else Path(arguments[0]).open("rb") as file:
            print(check_file(file))
    except WrongError as error:
        print(error)
        return 1
    except (OSError, MemoryError) as error:
        print(f"{arguments[0]}: {str(error) or 'a line does not fit into memory'}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
