"""Rounds on one stack: clients work, faults come and go; when all runs have ended, everything is checked."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import cast

import httpx
import psycopg2

from tests.chaos import checks
from tests.chaos.fault import Target
from tests.chaos.history import History, now
from tests.chaos.load import TENANTS, clients
from tests.chaos.plan import Round
from tests.chaos.resources import Resources
from tests.chaos.shapes import Shape, publish, shapes
from tests.support.eventually import eventually
from tests.support.failpoints import Failpoints
from tests.support.site import Site, running_site
from tests.support.stack import clean_environ

WORKERS, SLOTS = 2, 4
MAX_RUNNING = 3
"""What one of the tenants may have running at once."""
BEHIND_S = 1.5
"""How long clients go on when the last fault is healed: recovery is what they see, too."""
ENDED_WITHIN_S = 60.0
QUIET_WITHIN_S = 20.0
DISK = "size=24m"
SUPERVISED_FOLDERS = ("artifacts", "work")


class Broken(AssertionError):
    """Something that must hold does not: all of it, a line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a round came to."""

    round: Round
    runs: int
    calls: int
    failed_calls: int
    first_completion_s: float
    """From the moment at which the last fault was healed to the first step that ended after it."""
    all_ended_s: float
    """From then until no run was left running, what clients started meanwhile included."""


@dataclass(kw_only=True)
class Campaign:
    """A stack and all that has been asked of it so far."""

    site: Site
    target: Target
    shapes: dict[str, Shape]
    sink: Path
    say: Callable[[str], None]
    history: History = field(default_factory=History)
    resources: Resources = field(default_factory=Resources)
    _logs_read: dict[Path, int] = field(default_factory=dict)
    _calls_checked: int = 0

    def conduct(self, plan: Round) -> Outcome:
        """Do one round and check everything; raise Broken with what does not hold."""
        self.say(f"round {plan.number}: {plan.name}")
        target = Target(
            site=self.site,
            failpoints=self.target.failpoints,
            small_disks=self.target.small_disks,
            random=Random(plan.seed),
        )
        begun, runs_before = now(), self._count_runs()
        with clients(self.site, self.history, seed=plan.seed, shapes=sorted(self.shapes)):
            healed_at = _make_faults(plan, target)
            healed_utc = time.time()
            slowest = max(planned.fault.within_s for planned in plan.faults)
            first = self._first_completion(healed_utc, within_s=slowest)
            time.sleep(BEHIND_S)
        ended = self._all_ended(healed_at)
        self._check(begun + plan.faults[0].begins_s, healed_at + slowest)
        mine = self.history.calls[self._calls_checked :]
        self._calls_checked = len(self.history.calls)
        return Outcome(
            round=plan,
            runs=self._count_runs() - runs_before,
            calls=len(mine),
            failed_calls=sum(call.status is None or call.status >= 500 for call in mine),
            first_completion_s=first,
            all_ended_s=ended,
        )

    def prepare(self) -> None:
        """Publish the DAGs for every tenant, and give one of them a limit."""
        for tenant in TENANTS:
            with self.site.rest(tenant) as rest:
                publish(rest, self.shapes)
        token = self.site.token()
        answer = httpx.put(
            f"{self.site.stack.url}/api/v1/orchestrator/admin/limits",
            headers={
                "Authorization": f"Bearer {token}", "X-Stella-Tenant": TENANTS[0], "Idempotency-Key": "limit",
            },
            json={"maxRunningSteps": MAX_RUNNING, "reason": "chaos"},
            trust_env=False,
        )  # fmt: skip
        answer.raise_for_status()

    def _first_completion(self, since: float, *, within_s: float) -> float:
        """Wait for the first step that ends after a moment; tell how much later that was."""

        def ended() -> float | None:
            with suppress(psycopg2.Error), self.target.postgres() as cur:
                cur.execute(
                    "SELECT extract(EPOCH FROM min(ended_utc))::float8 FROM orch.attempts"
                    " WHERE ended_utc > to_timestamp(%s) AND status = 'succeeded'",
                    (since,),
                )
                row = cur.fetchone()
                return None if row is None else row[0]
            return None

        try:
            first = eventually(ended, within=within_s)
        except AssertionError:
            raise Broken([f"no step ended within {within_s} s after the last fault was healed"]) from None
        return max(0.0, cast("float", first) - since)

    def _all_ended(self, since: float) -> float:
        def none_is_running() -> bool:
            with self.target.postgres() as cur:
                cur.execute("SELECT count(*) FROM orch.runs WHERE status = 'running'")
                return cur.fetchone() == (0,)

        try:
            eventually(none_is_running, within=ENDED_WITHIN_S)
        except AssertionError:
            raise Broken([f"runs that have not ended within {ENDED_WITHIN_S} s:", *self._stuck()]) from None
        return now() - since

    def _stuck(self) -> list[str]:
        with self.target.postgres() as cur:
            cur.execute(
                "SELECT r.tenant, r.run_id, r.dag_id, s.step_no, s.status, s.attempt, s.waiting, s.sent_utc,"
                " s.due_utc, s.lease_until, s.undecided_utc, r.cancel_requested_utc, clock_timestamp()"
                " FROM orch.runs r JOIN orch.steps s USING (tenant, run_id)"
                " WHERE r.status = 'running' AND s.ended_utc IS NULL ORDER BY r.started_utc LIMIT 10"
            )
            names = [column.name for column in cur.description or ()]
            return [", ".join(f"{n}={v}" for n, v in zip(names, row, strict=True)) for row in cur.fetchall()]

    def _check(self, faulty_from: float, faulty_to: float) -> None:
        self.site.await_health()
        eventually(lambda: not self.site.step_processes(), within=QUIET_WITHIN_S)
        problems = [
            f"{call.what}: {call.status or 'no answer'}, with no fault to blame"
            for call in self.history.failed_outside(faulty_from, faulty_to, since=self._calls_checked)[:5]
        ]
        folder = self.site.stack.folder
        with self.target.postgres() as cur:
            problems += checks.ledger_problems(cur)
            problems += checks.history_problems(cur, self.history, self.shapes)
            problems += checks.effect_problems(cur, self.sink)
            problems += checks.artifact_problems(cur, folder.artifacts)
        problems += checks.log_problems(folder.log, self._logs_read)
        problems += self._leftovers()
        problems += self.resources.look(self._programs())
        if problems:
            raise Broken(problems)

    def lived_long(self) -> list[str]:
        """Tell how the memory of those programs went that have lived for long."""
        return list(self.resources.table(self._programs()))

    def _programs(self) -> dict[str, int]:
        ours = ("web", "worker", "sweeper")
        return {name: pid for name, pid in self.site.processes().items() if name.startswith(ours)}

    def _leftovers(self) -> Iterator[str]:
        """Tell what is left when nothing runs any more: working folders, messages."""
        work = self.site.stack.folder.work
        try:
            eventually(lambda: not list(work.iterdir()), within=QUIET_WITHIN_S)
        except AssertionError:
            yield f"left in the folder of work: {[path.name for path in work.iterdir()][:5]}"
        with self.target.redis() as client:
            try:
                eventually(lambda: not client.keys("orchestrator:steps.*"), within=QUIET_WITHIN_S)
            except AssertionError:
                yield f"left in Redis: {client.keys('*')}"
            if unacknowledged := client.hlen("orchestrator:unacked"):
                yield f"{unacknowledged} messages are not acknowledged"

    def _count_runs(self) -> int:
        with self.target.postgres() as cur:
            cur.execute("SELECT count(*) FROM orch.runs")
            row = cur.fetchone()
            return int(row[0]) if row else 0


def _make_faults(plan: Round, target: Target) -> float:
    """Make and heal the faults of a round at their times; give the moment at which the last was healed."""
    begun = now()
    turns = sorted(
        turn
        for number, planned in enumerate(plan.faults)
        for turn in ((planned.begins_s, 0, number), (planned.ends_s, 1, number))
    )
    with ExitStack() as unhealed:
        open_ones: dict[int, ExitStack] = {}
        for at_s, ending, number in turns:
            # The length of a fault is what is tried here, not something to wait for.
            time.sleep(max(0.0, begun + at_s - now()))
            if ending:
                open_ones.pop(number).close()
            else:
                open_ones[number] = unhealed.enter_context(ExitStack())
                open_ones[number].enter_context(plan.faults[number].fault.make(target))
    return now()


@contextmanager
def running_campaign(folder: Path, say: Callable[[str], None]) -> Iterator[Campaign]:
    """Start a stack with short timings, two workers and two sweepers, and small disks where root may."""
    data = folder / "data"
    failpoints = Failpoints(folder=folder / "failpoints")
    sink = folder / "sink"
    with ExitStack() as stack:
        disks = stack.enter_context(_small_disks([data / name for name in SUPERVISED_FOLDERS]))
        site = stack.enter_context(
            running_site(data, workers=WORKERS, concurrency=SLOTS, environ=failpoints.environ())
        )
        stack.enter_context(_second_sweeper(site, folder / "second-sweeper.log"))
        target = Target(site=site, failpoints=failpoints, small_disks=disks, random=Random(0))
        campaign = Campaign(site=site, target=target, shapes=shapes(sink), sink=sink, say=say)
        campaign.prepare()
        yield campaign


@contextmanager
def _small_disks(folders: list[Path]) -> Iterator[tuple[Path, ...]]:
    """Put a file system of its own under each folder; none without the rights to."""
    if os.getuid() != 0:
        yield ()
        return
    mounted = []
    try:
        for folder in folders:
            folder.mkdir(parents=True, mode=0o700)
            command = ["mount", "-t", "tmpfs", "-o", f"{DISK},mode=700", "chaos", str(folder)]
            if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0:
                mounted.append(folder)
        yield tuple(mounted)
    finally:
        for folder in mounted:
            subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def _second_sweeper(site: Site, log: Path) -> Iterator[None]:
    """Run another sweeper beside the stack's own: any number may."""
    environ = {**clean_environ(), **cast("dict[str, str]", site.stack.description()["environ"])}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator_worker.sweeper"],
            env={**environ, "ORCH_SWEEP_INTERVAL_MS": "100", "ORCH_RESEND_AFTER_MS": "1000"},
            stdout=output,
            stderr=output,
            cwd=site.stack.folder.path,
        )
    try:
        yield
        assert process.poll() is None, "the second sweeper has ended by itself"
    finally:
        process.terminate()
        process.wait(timeout=10)
