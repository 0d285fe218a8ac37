"""The DAGs that chaos runs, and how a run of each may end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.support.rest import Document, Rest, shell

RETRY = {"maxAttempts": 6, "initialDelayMs": 50, "maxDelayMs": 400}
NOTE = 'echo "$ORCH_RUN_ID/$ORCH_STEP_ID/$ORCH_ATTEMPT" >>"$SINK"; '
"""What each command does first: one line in the sink, which is the effect that is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A DAG, and the statuses that a run of it may end with when nobody cancels it."""

    steps: list[Document]
    edges: tuple[str, ...]
    ends: frozenset[str]
    metadata: Document = field(default_factory=dict)


COMPLETES = frozenset({"completed"})
FAILS = frozenset({"failed"})
EITHER = COMPLETES | FAILS
"""A command may be killed, or find the disk full, once more than it is tried."""


def shapes(sink: Path) -> dict[str, Shape]:
    """Make all shapes; their commands note what they do in a file."""
    env = {"SINK": str(sink)}

    def noop(step_id: str, **options: object) -> Document:
        return {"id": step_id, "uses": "noop", **options}

    def sleep(step_id: str, ms: int) -> Document:
        return {"id": step_id, "uses": "sleep", "with": {"ms": ms}}

    def command(step_id: str, script: str, **options: object) -> Document:
        return shell(step_id, NOTE + script, env=env, retry=RETRY, **options)

    wide = [f"m{number}" for number in range(10)]
    return {
        "chain": Shape(
            steps=[noop(f"s{number}") for number in range(6)],
            edges=tuple(f"s{number}>s{number + 1}" for number in range(5)),
            ends=COMPLETES,
        ),
        "diamond": Shape(
            steps=[noop("a"), sleep("b", 200), command("c", "sleep 0.2"), noop("d")],
            edges=("a>b", "a>c", "b>d", "c>d"),
            ends=EITHER,
        ),
        "wide": Shape(
            steps=[noop("first"), *(sleep(step, 30) for step in wide), noop("last")],
            edges=tuple(edge for step in wide for edge in (f"first>{step}", f"{step}>last")),
            ends=COMPLETES,
        ),
        "conditions": Shape(
            steps=[
                noop("a", when="inputs.n >= 0"),
                noop("never", when="inputs.n < 0"),
                noop("only-after-failure", runOn="failure"),
                noop("off", disabled=True),
                noop("in-any-case", runOn="always"),
                noop("z", when="steps.a.status == 'succeeded' && steps.never.status == 'skipped'"),
            ],
            edges=("a>only-after-failure", "a>off", "never>in-any-case", "a>z", "never>z", "off>z"),
            ends=COMPLETES,
        ),
        # Longer than a lease: it is renewed, or lost with its worker.
        "long": Shape(
            steps=[sleep("nap", 4_000), command("works", "sleep 1.5"), noop("after")],
            edges=("nap>after", "works>after"),
            ends=EITHER,
        ),
        "two-at-a-time": Shape(
            steps=[{**sleep(step, 50), "concurrencyKey": "gate"} for step in ("a", "b", "c")],
            edges=("a>c",),
            ends=COMPLETES,
            metadata={"concurrencyLimits": {"gate": 2}},
        ),
        "failure": Shape(
            steps=[
                shell("breaks", NOTE + "exit 3", env=env),
                noop("not-reached"),
                noop("mends", runOn="failure"),
                noop("cleans", runOn="always"),
            ],
            edges=("breaks>not-reached", "breaks>mends", "not-reached>cleans"),
            ends=FAILS,
        ),
        "retries": Shape(
            steps=[command("flaky", '[ "$ORCH_ATTEMPT" -gt 1 ]'), noop("after")],
            edges=("flaky>after",),
            ends=EITHER,
        ),
        "files": Shape(
            steps=[
                command("writes", 'echo "$ORCH_RUN_ID" >"$ORCH_OUTPUT_DIR/file"; echo out'),
                command("writes-too", 'head -c 20000 /dev/urandom >"$ORCH_OUTPUT_DIR/noise"'),
                noop("after"),
            ],
            edges=("writes>after", "writes-too>after"),
            ends=EITHER,
        ),
    }


def publish(rest: Rest, all_shapes: dict[str, Shape]) -> None:
    """Publish all shapes for a tenant."""
    for name, shape in all_shapes.items():
        rest.publish(name, shape.steps, *shape.edges, metadata=shape.metadata)
