"""Any verbs in any order, late and doubled ones too: the ledger does what a model of a hundred lines does."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, Phase, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.domain.models import Claim, DagId, DagSpec, JsonObject, Outcome, Released, Run, Stopped, TenantId
from shared.domain.states import RunStatus, StepStatus
from shared.errors import RunAlreadyFinished
from shared.services import recovery, runs, work
from shared.services.work import Held
from shared.store.db import Database
from tests.support import verbs
from tests.support.graphs import graph
from tests.support.invariants import check_invariants
from tests.support.ledger import LONG_MS, Ledger, failed, succeeded
from tests.support.model import ModelRun

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "300"))
FOUND_WITHIN = 1_200
"""So many examples at most until a broken ledger shows; mostly it takes some dozens."""
STEPS = 50
MAX_RUNS = 4
OUTCOMES: dict[str, Outcome] = {
    "succeeded": succeeded(),
    "failed": failed(),
    "retrying": failed(retry_delay_ms=0),
    "released": Released(),
    "cancelled": Stopped(),
}
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The database that all examples share, each as a tenant of its own."""

    api: Database
    service: Database
    owner: Any


@st.composite
def specs(draw: st.DrawFn) -> DagSpec:
    """Draw a DAG of up to six steps with every condition that there is."""
    ids = [f"s{number}" for number in range(draw(st.integers(1, 6)))]
    edges = [f"{a}>{b}" for a, b in itertools.combinations(ids, 2) if draw(st.integers(0, 2)) == 0]
    options: dict[str, JsonObject] = {
        step: {
            "runOn": draw(st.sampled_from(["success", "success", "failure", "always"])),
            "disabled": draw(st.integers(0, 9)) == 0,
            "retry": {"maxAttempts": draw(st.integers(1, 3))},
            **({"when": "true"} if draw(st.integers(0, 3)) == 0 else {}),
        }
        for step in ids
    }
    spec = graph(" ".join(edges), steps=" ".join(ids), options=options)
    return replace(spec, dag_id=DagId(f"g-{spec.spec_hash[:32]}"))


class Machine(RuleBasedStateMachine):
    """Verbs of client, worker and sweeper. What is drawn are numbers, taken modulo what there is."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        tenant = TenantId(f"tenant-{next(_numbers)}")
        self.ledger = Ledger(api=self.world.api, service=self.world.service, tenant=tenant)
        self.runs: list[tuple[Run, ModelRun]] = []
        self.claims: list[tuple[int, Claim]] = []
        """Every claim that was ever made, with the number of its run."""
        self.changed = False

    @precondition(lambda self: len(self.runs) < MAX_RUNS)
    @rule(spec=specs())
    def start(self, spec: DagSpec) -> None:
        run = self.ledger.start(spec, run_token=f"run-{len(self.runs)}")
        self.runs.append((run, ModelRun(spec)))
        self.changed = True

    @precondition(lambda self: self.runs)
    @rule(n=st.integers(0, 99))
    def start_again(self, n: int) -> None:
        """A repeated start is the same run."""
        number, (run, model) = self._run(n)
        again = self.ledger.start(model.spec, run_token=f"run-{number}")
        assert again.run_id == run.run_id

    @precondition(lambda self: self.runs)
    @rule(n=st.integers(0, 99), m=st.integers(0, 99))
    def claim(self, n: int, m: int) -> None:
        """A message for any step, ready or not, once or twice."""
        number, (run, model) = self._run(n)
        ready = [no for no, step in enumerate(model.steps) if step.status is StepStatus.QUEUED]
        choice = ready if ready and n % 4 else range(len(model.steps))
        step_no = choice[m % len(choice)]
        taken = model.claim(step_no)
        claim = verbs.claim(
            self.world.service, self.ledger.tenant, run.run_id, step_no,
            worker_id=self.ledger.worker, lease_ms=LONG_MS,
        )  # fmt: skip
        assert (claim is not None) is taken
        if claim is not None:
            assert claim.attempt == model.steps[step_no].attempt
            self.claims.append((number, claim))
        self.changed = taken

    @precondition(lambda self: self.claims)
    @rule(n=st.integers(0, 999), ending=st.sampled_from(sorted(OUTCOMES)), hand_over=st.booleans())
    def complete(self, n: int, ending: str, hand_over: bool) -> None:
        """Any attempt there ever was reports: the one that holds the step, a late one, a repeated one."""
        number, claim = self.claims[-1 - n % min(len(self.claims), 8)]
        _, model = self.runs[number]
        assume(ending != "retrying" or claim.tries < claim.retry.max_attempts)
        taken = model.complete(claim.step_no, claim.attempt, ending)
        pools = frozenset({"default"}) if hand_over else frozenset[str]()
        change = self.ledger.complete(claim, OUTCOMES[ending], handoff=pools)
        assert change.accepted is taken
        if taken and hand_over and model.unlocked:
            assert change.next is not None, "an unlocked step was not handed over"
        if change.next is not None:
            assert hand_over and model.claim(change.next.step_no), "a step was handed over, not ready"
            self.claims.append((number, change.next))
        self.changed = taken

    @precondition(lambda self: self._overtaken())
    @rule(n=st.integers(0, 99), ending=st.sampled_from(sorted(OUTCOMES)))
    def report_when_another_has_the_step(self, n: int, ending: str) -> None:
        """What a frozen worker does when it thaws. It is refused, and must not be taken for the other."""
        overtaken = self._overtaken()
        claim = overtaken[n % len(overtaken)]
        assert not self.ledger.complete(claim, OUTCOMES[ending]).accepted
        self.changed = True

    @precondition(lambda self: self.claims)
    @rule(n=st.integers(0, 999))
    def renew(self, n: int) -> None:
        number, claim = self.claims[-1 - n % min(len(self.claims), 8)]
        _, model = self.runs[number]
        held = Held(claim.tenant, claim.run_id, claim.step_no, claim.attempt)
        (renewal,) = work.renew(self.world.service, [held], lease_ms=LONG_MS)
        valid = model.holds(claim.step_no, claim.attempt)
        assert renewal.valid is valid
        assert renewal.cancel_requested is (valid and model.cancelled)

    @precondition(lambda self: self.runs)
    @rule(n=st.integers(0, 99))
    def expire_and_rescue(self, n: int) -> None:
        """The leases of some of a run's attempts run out, and a sweeper comes by."""
        _, (run, model) = self._run(n)
        with self.world.owner.cursor() as cur:
            cur.execute(
                "UPDATE orch.steps SET lease_until = now() - INTERVAL '1 hour'"
                " WHERE run_id = %s AND status = 'running' AND step_no %% 2 = %s RETURNING step_no",
                (str(run.run_id), n % 2),
            )
            expired = sorted(row[0] for row in cur.fetchall())
        self.ledger.rescue()
        for step_no in expired:
            model.lose(step_no)
        self.changed = bool(expired)

    @rule()
    def wake(self) -> None:
        self.ledger.wake()
        for _, model in self.runs:
            model.wake()
        self.changed = True

    @precondition(lambda self: self.runs)
    @rule(n=st.integers(0, 99), m=st.integers(0, 99), run_it=st.booleans(), hand_over=st.booleans())
    def decide(self, n: int, m: int, run_it: bool, hand_over: bool) -> None:
        """A ``when`` was evaluated: of a step that waits for it, or of any other."""
        number, (run, model) = self._run(n)
        step_no = m % len(model.steps)
        taken = model.decide(step_no, run=run_it)
        change = self.ledger.decide(
            run,
            **{"unlock" if run_it else "skip": [model.spec.steps[step_no].id]},
            handoff=frozenset({"default"}) if hand_over else frozenset(),
        )
        assert change.accepted is taken
        if change.next is not None:
            assert hand_over and model.claim(change.next.step_no)
            self.claims.append((number, change.next))
        self.changed = taken

    @precondition(lambda self: self.runs)
    @rule(n=st.integers(0, 299))
    def cancel(self, n: int) -> None:
        assume(n % 3 == 0)  # Else few runs would come far.
        _, (run, model) = self._run(n)
        before = model.status
        model.cancel()
        try:
            told, _ = runs.cancel(self.world.api, self.ledger.tenant, run.run_id, reason=None)
        except RunAlreadyFinished:
            assert before in (RunStatus.COMPLETED, RunStatus.FAILED)
        else:
            assert told.status is model.status
        self.changed = True

    @rule()
    def pick_and_send_again(self) -> None:
        """Messages change nothing, nor do they come for what is not ready."""
        bells = [
            *self.ledger.pick(),
            *recovery.resend(self.world.service, "default", older_than_ms=0, limit=50),
        ]
        models = {run.run_id: model for run, model in self.runs}
        for bell in bells:
            if bell.tenant == self.ledger.tenant:
                assert models[bell.run_id].steps[bell.step_no].status is StepStatus.QUEUED
        self.changed = True

    @invariant()
    def the_ledger_is_as_the_model(self) -> None:
        if not self.changed:
            return
        for run, model in self.runs:
            with self.world.owner.cursor() as cur:
                cur.execute(
                    "SELECT status, attempt, lost, released, undecided_utc IS NOT NULL FROM orch.steps"
                    " WHERE run_id = %s ORDER BY step_no",
                    (str(run.run_id),),
                )
                stored = cur.fetchall()
                cur.execute("SELECT status FROM orch.runs WHERE run_id = %s", (str(run.run_id),))
                status = cur.fetchone()
            assert stored == [
                (str(s.status), s.attempt, s.lost, s.released, s.undecided) for s in model.steps
            ]
            assert status == (str(model.status),)

    def teardown(self) -> None:
        """End what this example has begun, so that no later one meets it in a queue."""
        for run, model in self.runs:
            model.cancel()
            if model.status is RunStatus.RUNNING or model.cancelled:
                runs.cancel(self.world.api, self.ledger.tenant, run.run_id, reason=None)
        for number, claim in self.claims:
            taken = self.runs[number][1].complete(claim.step_no, claim.attempt, "cancelled")
            assert self.ledger.complete(claim, Stopped()).accepted is taken
        self.the_ledger_is_as_the_model()

    def _overtaken(self) -> list[Claim]:
        """List the claims whose step runs by a later attempt."""
        return [
            claim
            for number, claim in self.claims
            if (step := self.runs[number][1].steps[claim.step_no]).status is StepStatus.RUNNING
            and step.attempt > claim.attempt
        ]

    def _run(self, n: int) -> tuple[int, tuple[Run, ModelRun]]:
        number = n % len(self.runs)
        return number, self.runs[number]


@contextmanager
def owner_of(url: str) -> Iterator[Any]:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    yield connection
    connection.close()


def run_examples(api_db: Database, service_db: Database, owner: Any, **options: Any) -> None:
    """Run examples of fifty verbs each, in the order that hypothesis draws."""

    class Here(Machine):
        world = World(api=api_db, service=service_db, owner=owner)

    run_state_machine_as_test(
        Here,
        settings=settings(
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **{"max_examples": EXAMPLES, **options},
        ),
    )


def test_the_ledger_does_what_the_model_does(api_db: Database, service_db: Database, owner_url: str) -> None:
    with owner_of(owner_url) as owner:
        run_examples(api_db, service_db, owner)
        with owner.cursor() as cur:
            cur.execute("BEGIN")
            check_invariants(cur)
            cur.execute("ROLLBACK")


def test_a_ledger_without_its_fence_would_be_found_out(
    api_db: Database, service_db: Database, owner_url: str
) -> None:
    with owner_of(owner_url) as owner:
        with owner.cursor() as cur:
            cur.execute("SELECT pg_get_functiondef('orch.settle'::regproc)")
            (definition,) = cur.fetchone()
            assert definition.count("AND s.attempt = e.attempt") == 1
            cur.execute(definition.replace("AND s.attempt = e.attempt", ""))
        # Found is enough here: to shrink it would take minutes.
        with pytest.raises((AssertionError, ExceptionGroup, RunAlreadyFinished)):
            run_examples(
                api_db,
                service_db,
                owner,
                max_examples=FOUND_WITHIN,
                phases=[Phase.generate],
                database=None,
                report_multiple_bugs=False,
            )
