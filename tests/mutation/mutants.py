"""The table of mutants: where, what stands there, what is put in its place, and who must notice."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MIGRATIONS = "shared/migrations/versions"
LEDGER = "tests/integration/ledger"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A fault that somebody might make."""

    name: str
    where: str
    """A file, or a function of the ledger, ``orch.<name>``, where its newest definition is."""
    old: str
    new: str
    red: str
    """Tests that must fail, as arguments of pytest."""

    def place(self, root: Path) -> Path:
        """Give the file to change."""
        if not self.where.startswith("orch."):
            return root / self.where
        defined = [
            p for p in sorted((root / MIGRATIONS).glob("*.sql")) if self._head.search(p.read_text("utf-8"))
        ]
        if not defined:
            raise LookupError(f"no migration defines {self.where}")
        return defined[-1]

    def mutated(self, root: Path) -> str:
        """Give the file's new text; the old text must stand there exactly once."""
        text = self.place(root).read_text("utf-8")
        begin, end = self._span(text)
        found = text.count(self.old, begin, end)
        if found != 1:
            raise LookupError(
                f"{self.name}: the text stands {found} times in {self.place(root)}: {self.old!r}"
            )
        return text[:begin] + text[begin:end].replace(self.old, self.new) + text[end:]

    def _span(self, text: str) -> tuple[int, int]:
        if not self.where.startswith("orch."):
            return 0, len(text)
        head = self._head.search(text)
        assert head is not None
        following = re.compile(r"^CREATE ", re.MULTILINE).search(text, head.end())
        return head.start(), len(text) if following is None else following.start()

    @property
    def _head(self) -> re.Pattern[str]:
        return re.compile(rf"^CREATE (OR REPLACE )?FUNCTION {re.escape(self.where)}\(", re.MULTILINE)


MUTANTS = (
    Mutant(
        name="a report is taken from any attempt",
        where="orch.settle",
        old="AND s.status = 'running' AND s.attempt = e.attempt",
        new="AND s.status = 'running'",
        red=f"{LEDGER}/test_transitions.py::test_late_completion_of_a_rescued_attempt_changes_nothing",
    ),
    Mutant(
        name="a report is taken of a step that has ended",
        where="orch.settle",
        old="AND s.status = 'running' AND s.attempt = e.attempt",
        new="AND s.attempt = e.attempt",
        red=f"{LEDGER}/test_transitions.py::test_one_of_many_completions_counts",
    ),
    Mutant(
        name="a lease is renewed by any attempt",
        where="shared/store/sql/work.sql",
        old="AND s.attempt = h.attempt\nRETURNING s.tenant, s.run_id, s.step_no, s.attempt,",
        new="\nRETURNING s.tenant, s.run_id, s.step_no, h.attempt,",
        red=f"{LEDGER}/test_renewals.py",
    ),
    Mutant(
        name="a step is taken whatever its state",
        where="orch.take",
        old="AND s.step_no = p_step AND s.status = p_from",
        new="AND s.step_no = p_step",
        red=f"{LEDGER}/test_transitions.py::test_only_one_of_many_claims_gets_the_step",
    ),
    Mutant(
        name="lost attempts are not counted",
        where="orch.rescue",
        old="lost = s.lost + 1,",
        new="lost = s.lost,",
        red=f"{LEDGER}/test_transitions.py::test_a_step_that_loses_five_attempts_fails_as_lost",
    ),
    Mutant(
        name="a lost attempt is not ended",
        where="orch.rescue",
        old="SET status = 'lost', ended_utc = v_now, error_code = 'WORKER_LOST'",
        new="SET error_code = 'WORKER_LOST'",
        red=f"{LEDGER}/test_transitions.py::test_a_step_that_loses_five_attempts_fails_as_lost",
    ),
    Mutant(
        name="a step does not wait for its last predecessor",
        where="orch.verdict",
        old="WHEN waiting > 0 THEN 'wait'",
        new="WHEN waiting > 1 THEN 'wait'",
        red=f"{LEDGER}/test_transitions.py::test_a_diamond_runs_in_order_and_completes",
    ),
    Mutant(
        name="the chain of hashes begins anew with each transition",
        where="orch.record",
        old="v_head bytea := r.ledger_head;",
        new="v_head bytea := decode(repeat('00', 32), 'hex');",
        red=f"{LEDGER}/test_transitions.py::test_a_diamond_runs_in_order_and_completes",
    ),
    Mutant(
        name="a run that is being cancelled takes what was run ahead",
        where="orch.settle",
        old="v_status = 'succeeded' AND v_goes_on AND e.ahead IS NOT NULL",
        new="v_status = 'succeeded' AND e.ahead IS NOT NULL",
        red=f"{LEDGER}/test_running_ahead.py::test_a_cancelled_run_takes_nothing_that_was_run_ahead",
    ),
    Mutant(
        name="any step may have been run ahead",
        where="orch.run_ahead",
        old="WHERE f.only_no = p_after OR f.only_no IN (SELECT o.step_no FROM ran AS o)",
        new="WHERE TRUE",
        red=f"{LEDGER}/test_running_ahead.py",
    ),
    Mutant(
        name="a run that is being cancelled tries again",
        where="orch.settle",
        old="WHEN r.cancel_requested_utc IS NOT NULL THEN 'cancelled'\n            WHEN e.ending",
        new="WHEN e.ending",
        red=f"{LEDGER}/test_transitions.py::test_a_step_of_a_cancelled_run_ends_with_its_attempt",
    ),
    Mutant(
        name="cancellation leaves retries be",
        where="orch.cancel_run",
        old="AND s.status IN ('pending', 'queued', 'retrying')",
        new="AND s.status IN ('pending', 'queued')",
        red=f"{LEDGER}/test_transitions.py::test_cancel_ends_what_has_not_begun_and_the_run_once_nothing_runs",
    ),
    Mutant(
        name="a limit counts nothing that runs",
        where="orch.pick",
        old="v_max - orch.active_steps(v_turn)",
        new="v_max",
        red=f"{LEDGER}/test_limits.py",
    ),
    Mutant(
        name="what waits is sent again whatever its age",
        where="orch.resend",
        old="AND s.sent_utc < clock_timestamp() - make_interval(",
        new="AND s.sent_utc < clock_timestamp() + make_interval(",
        red=f"{LEDGER}/test_resend.py",
    ),
    Mutant(
        name="a key is not taken before its call is served",
        where="orch.begin_call",
        old="IF NOT pg_try_advisory_xact_lock(",
        new="IF FALSE AND NOT pg_try_advisory_xact_lock(",
        red="tests/integration/api/test_idempotency.py",
    ),
    Mutant(
        name="a message is sent before the commit that it tells of",
        where="orchestrator_api/idempotency.py",
        old="                once.finish(_kept(response, fingerprint), entry)\n",
        new="                for follow in after_commit:\n"
        "                    follow()\n"
        "                __import__('time').sleep(0.5)\n"
        "                once.finish(_kept(response, fingerprint), entry)\n",
        red="tests/integration/api/test_runs.py",
    ),
    Mutant(
        name="the tenant outlives its transaction",
        where="shared/store/db.py",
        old="SELECT set_config('orch.tenant', %s, TRUE); ",
        new="SELECT set_config('orch.tenant', %s, FALSE); ",
        red=f"{LEDGER}/test_tenants_apart.py::test_the_tenant_does_not_outlive_its_transaction",
    ),
    Mutant(
        name="a tenant may write rows of another",
        where=f"{MIGRATIONS}/0002_tenants_apart.sql",
        old="' WITH CHECK (tenant = current_setting(''orch.tenant'', TRUE))'",
        new="' WITH CHECK (TRUE)'",
        red=f"{LEDGER}/test_tenants_apart.py",
    ),
    Mutant(
        name="row-level security spares the owner",
        where=f"{MIGRATIONS}/0002_tenants_apart.sql",
        old="EXECUTE format('ALTER TABLE orch.%I FORCE ROW LEVEL SECURITY', table_name);",
        new="",
        red=f"{LEDGER}/test_tenants_apart.py::"
        "test_every_table_but_the_fleet_is_a_tenants_and_forces_row_level_security",
    ),
    Mutant(
        name="a lease counts from the answer that granted it",
        where="orchestrator_worker/settler.py",
        old="            since = time.monotonic()\n            settled = work.settle(",
        new="            since = time.monotonic() + 3_600\n            settled = work.settle(",
        red="tests/integration/worker/test_recovery.py::test_a_worker_that_is_cut_off_stops_before_its_successor_begins",
    ),
    Mutant(
        name="the sweeper does not look for what nobody announced",
        where="orchestrator_worker/sweeper.py",
        old="recovery.backlogs(self._db) | recovery.let_go(self._db)",
        new="recovery.let_go(self._db)",
        red="tests/integration/worker/test_recovery.py::test_what_was_committed_and_never_sent_is_sent",
    ),
    Mutant(
        name="a message that is none ends the worker",
        where="orchestrator_worker/celery_app.py",
        old="        except NO_MESSAGE as error:\n            REFUSED.note(error)",
        new="        except NO_MESSAGE:\n            raise",
        red="tests/integration/worker/test_run.py",
    ),
    Mutant(
        name="only the command itself is killed, not its children",
        where="orchestrator_worker/tree_keeper.py",
        old="        signal_tree(child, signal.SIGKILL)\n        try:",
        new="        signal_group(child, signal.SIGKILL)\n        return\n        try:",
        red="tests/integration/plugins/test_command.py::test_what_a_command_leaves_running_ends_with_it",
    ),
    Mutant(
        name="bytes that rotted are handed out",
        where="shared/artifacts.py",
        old="if digest.hexdigest() != sha256:\n            target",
        new="if not digest.hexdigest():\n            target",
        red="tests/unit/test_artifacts.py",
    ),
    Mutant(
        name="bytes that rotted are downloaded",
        where="shared/artifacts.py",
        old="if digest.hexdigest() != sha256:\n        raise",
        new="if not digest.hexdigest():\n        raise",
        red="tests/integration/api/test_artifacts.py",
    ),
    Mutant(
        name="a silent PostgreSQL is waited for",
        where="shared/store/deadline.py",
        old="if not poller.poll(max(0.0, connection.left) * 1000):",
        new="if not poller.poll(max(0.0, connection.left) * 5_000):",
        red="tests/integration/ledger/test_deadlines.py",
    ),
    Mutant(
        name="events of a run change places",
        where="orch.record",
        old="greatest(pg_current_xact_id(), r.event_xid)",
        new="pg_current_xact_id()",
        red=f"{LEDGER}/test_event_order.py",
    ),
    Mutant(
        name="events are read that a late commit would stand before",
        where="shared/store/sql/events.sql",
        old="< pg_snapshot_xmin(pg_current_snapshot())\n    ORDER BY e.xid",
        new="< pg_snapshot_xmax(pg_current_snapshot())\n    ORDER BY e.xid",
        red=f"{LEDGER}/test_event_order.py",
    ),
    Mutant(
        name="a cursor ends behind the other events of its transaction",
        where="shared/store/sql/events.sql",
        old="(e.xid, e.event_id) > (%(xid)s::text::xid8, %(event_id)s)\n        AND e.xid < pg_snapshot_xmin"
        "(pg_current_snapshot())\n    ORDER BY e.xid",
        new="e.xid > %(xid)s::text::xid8 AND %(event_id)s >= 0\n        AND e.xid < pg_snapshot_xmin"
        "(pg_current_snapshot())\n    ORDER BY e.xid",
        red=f"{LEDGER}/test_event_order.py",
    ),
    Mutant(
        name="a stream outlives its token",
        where="orchestrator_api/stream/hub.py",
        old="elif client.expires_at <= time.time():",
        new="elif client.expires_at <= 0:",
        red="tests/integration/api/test_stream.py",
    ),
    Mutant(
        name="a token needs no expiry",
        where="orchestrator_api/auth.py",
        old='options={"require": ["sub", "iss", "aud", "exp"], "verify_exp": False}',
        new='options={"require": ["sub", "iss", "aud"], "verify_exp": False}',
        red="tests/unit/api/test_auth.py",
    ),
    Mutant(
        name="secrets are logged as they are",
        where="shared/log.py",
        old="        text = pattern.sub(replacement, text)\n",
        new="        pattern.sub(replacement, text)\n",
        red="tests/unit/test_log.py",
    ),
)
