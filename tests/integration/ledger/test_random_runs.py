"""Random DAGs, random endings, messages doubled, late and lost: the ledger ends as the interpreter says."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.domain.models import Claim, DagId, DagSpec, Ended, Json, JsonObject, Outcome, Released
from shared.domain.states import RunStatus
from shared.services import recovery, work
from shared.services.work import Handoff
from shared.store.recovery import Doorbell
from tests.support import verbs
from tests.support.exported import exported, wrong_line
from tests.support.graphs import graph
from tests.support.interpreter import Script, interpret
from tests.support.invariants import check_invariants
from tests.support.ledger import LONG_MS, Ledger, failed, succeeded

_WHAT = st.sampled_from(["ok", "ok", "fail", "retry", "retry", "lost", "lost", "released"])


@st.composite
def _cases(draw: st.DrawFn) -> tuple[DagSpec, dict[str, Script], int]:
    count = draw(st.integers(1, 9))
    ids = [f"s{n}" for n in range(count)]
    edges = [f"{ids[a]}>{ids[b]}" for b in range(count) for a in range(b) if draw(st.integers(0, 99)) < 35]
    options: dict[str, JsonObject] = {}
    scripts = {}
    for step in ids:
        option: dict[str, Json] = {
            "runOn": draw(st.sampled_from(["success", "success", "failure", "always"])),
            "disabled": draw(st.integers(0, 9)) == 0,
            "retry": {"maxAttempts": draw(st.integers(1, 3)), "initialDelayMs": 0, "maxDelayMs": 0},
        }
        if draw(st.integers(0, 3)) == 0:
            option["when"] = "true"
        options[step] = option
        scripts[step] = Script(attempts=draw(st.lists(_WHAT, max_size=6)), when=draw(st.booleans()))
    return graph(" ".join(edges), steps=" ".join(ids), options=options), scripts, draw(st.integers(0, 2**32))


class _Fleet:
    """Workers, a broker that doubles, delays and loses, and a sweeper, in an order drawn from a seed."""

    def __init__(self, ledger: Ledger, spec: DagSpec, scripts: dict[str, Script], seed: int) -> None:
        self.ledger, self.spec, self.scripts = ledger, spec, scripts
        self.random = random.Random(seed)
        self.run = ledger.start(spec)
        self.messages: list[Doorbell] = []
        self.held: list[Claim] = []
        self.late: list[tuple[Claim, Outcome]] = []

    def until_the_end(self) -> None:
        turns = [self.send, self.deliver, self.deliver, self.work, self.work, self.work_together]
        turns += [self.sweep, self.be_late]
        for _ in range(5_000):
            if self.ledger.run(self.run.run_id).status is not RunStatus.RUNNING:
                return
            self.random.choice(turns)()
        raise AssertionError(f"the run has not ended: {self.ledger.statuses(self.run)}")

    def send(self) -> None:
        for bell in self.ledger.pick():
            self.messages += [bell] * self.random.choice([0, 1, 1, 2])
        self.random.shuffle(self.messages)

    def deliver(self) -> None:
        if not self.messages:
            return
        bell = self.messages.pop()
        what = self.script_of(self.spec.steps[bell.step_no].id, self.attempts_of(bell.step_no))
        claim = verbs.claim(
            self.ledger.service, bell.tenant, bell.run_id, bell.step_no,
            worker_id=self.ledger.worker, lease_ms=0 if what == "lost" else LONG_MS,
        )  # fmt: skip
        self.hold(claim)

    def hold(self, claim: Claim | None) -> None:
        """Run a claimed step, unless this attempt is one to be lost: that one only comes late."""
        if claim is None:
            return
        if self.script_of(claim.step_id, claim.attempt - 1) == "lost":
            self.late.append((claim, succeeded({"zombie": True})))
        else:
            self.held.append(claim)

    def work(self) -> None:
        if not self.held:
            return
        claim = self.held.pop(self.random.randrange(len(self.held)))
        outcome = self.outcome(claim)
        # A step that is to lose its next attempt must not be handed over with a long lease.
        lossy = any("lost" in s.attempts for s in self.scripts.values())
        change = self.ledger.complete(
            claim, outcome, handoff=frozenset() if lossy else frozenset({"default"})
        )
        assert change.accepted
        self.hold(change.next)
        if self.random.random() < 0.3:
            self.late.append((claim, outcome))

    def work_together(self) -> None:
        """Report several endings, a late one and a message at once, and ask for several steps."""
        count = self.random.randint(0, len(self.held))
        claims = [self.held.pop(self.random.randrange(len(self.held))) for _ in range(count)]
        reported = [(claim, self.outcome(claim)) for claim in claims]
        late = [self.late.pop()] if self.late and self.random.random() < 0.5 else []
        if late:
            self.ledger.rescue()
        lossy = any("lost" in s.attempts for s in self.scripts.values())
        messages = [self.messages.pop()] if self.messages and not lossy else []
        sure, free = (0, 0) if lossy else (self.random.randint(0, count), self.random.randint(0, 3))
        report = work.Report(
            run_id=self.run.run_id,
            claims=[bell.step_no for bell in messages],
            ended=[
                Ended(step_no=claim.step_no, attempt=claim.attempt, outcome=outcome)
                for claim, outcome in reported + late
            ],
            handoff=Handoff(
                worker_id=self.ledger.worker,
                lease_ms=LONG_MS,
                pools=frozenset({"default"}),
                sure=sure,
                free=free,
                share=self.random.random(),
            ),
        )
        progress = work.settle(self.ledger.service, self.ledger.tenant, [report])[self.run.run_id]
        assert progress.settled == {(claim.step_no, claim.attempt) for claim in claims}
        assert len(progress.claims) <= sure + free + len(messages)
        for claim in progress.claims:
            self.hold(claim)
        self.late += [one for one in reported if self.random.random() < 0.3]

    def outcome(self, claim: Claim) -> Outcome:
        match self.script_of(claim.step_id, claim.attempt - 1):
            case "ok":
                return succeeded({"step": claim.step_id})
            case "released":
                return Released()
            case "retry" if claim.tries < claim.retry.max_attempts:
                return failed(retry_delay_ms=0)
            case _:
                return failed()

    def sweep(self) -> None:
        self.ledger.wake()
        self.ledger.rescue()
        self.messages += recovery.resend(self.ledger.service, "default", older_than_ms=0, limit=100)
        for step in work.undecided(self.ledger.service, self.ledger.tenant, self.run.run_id):
            if self.scripts[step.step_id].when:
                self.ledger.decide(self.run, unlock=[step.step_id])
            else:
                self.ledger.decide(self.run, skip=[step.step_id])

    def be_late(self) -> None:
        """Report what was reported before, or by an attempt that may have lost its lease."""
        if not self.late:
            return
        claim, outcome = self.late.pop(self.random.randrange(len(self.late)))
        self.ledger.rescue()
        assert not self.ledger.complete(claim, outcome).accepted

    def attempts_of(self, step_no: int) -> int:
        return self.ledger.step(self.run, self.spec.steps[step_no].id).attempt

    def script_of(self, step_id: str, index: int) -> str:
        script = self.scripts[step_id].attempts
        return script[index] if index < len(script) else "ok"


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=_cases())
def test_random_runs_end_as_the_interpreter_predicts(
    ledger: Ledger, case: tuple[DagSpec, dict[str, Script], int]
) -> None:
    spec, scripts, seed = case
    # A version never changes, so each case is a DAG of its own.
    spec = replace(spec, dag_id=DagId(f"g-{spec.spec_hash[:32]}"))
    endings, attempts = interpret(spec, scripts)
    fleet = _Fleet(ledger, spec, scripts, seed)
    fleet.until_the_end()
    assert ledger.statuses(fleet.run) == endings
    assert {s.id: ledger.step(fleet.run, s.id).attempt for s in spec.steps} == attempts
    expected = (
        RunStatus.FAILED if any(e.startswith("failed") for e in endings.values()) else RunStatus.COMPLETED
    )
    assert ledger.run(fleet.run.run_id).status is expected


@pytest.fixture(autouse=True)
def _all_runs_have_ended(ledger: Ledger, owner_url: str) -> Iterator[None]:
    yield
    assert wrong_line(exported(ledger)) is None
    connection = psycopg2.connect(owner_url)
    try:
        with connection.cursor() as cur:
            check_invariants(cur)
    finally:
        connection.close()
