"""Rows put straight into the ledger: at times that the verbs would not choose, or a million of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg2

from shared.domain import versions
from shared.domain.states import RunStatus

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

_VERSION = (
    "INSERT INTO orch.dag_versions (tenant, dag_id, version, precedence, spec_hash, step_count, metadata,"
    " definition, created_by, disabled_utc) VALUES (%s, %s, %s, %s, sha256('x'), 1, '{}', '{}', 'rows', %s)"
)
_RUN = (
    "INSERT INTO orch.runs (tenant, run_id, dag_version_id, dag_id, dag_version, status, trace_id,"
    " inputs_hash, created_by, started_utc, step_count, open_steps, seq)"
    " SELECT tenant, %s, dag_version_id, dag_id, version, %s, repeat('4', 32), sha256('x'), 'rows', %s,"
    " 1, 0, 4 FROM orch.dag_versions WHERE tenant = %s AND dag_id = %s ORDER BY dag_version_id LIMIT 1"
)
_AUDIT = (
    "INSERT INTO orch.audit (tenant, audit_id, at_utc, subject, action, object, trace_id, outcome, status)"
    " VALUES (%s, %s, %s, 'rows', %s, '/', repeat('4', 32), 'accepted', 200)"
)
_MANY_RUNS = """
INSERT INTO orch.runs (
    tenant, run_id, dag_version_id, dag_id, dag_version, status, trace_id, inputs_hash, outputs_hash,
    created_by, started_utc, ended_utc, step_count, open_steps, seq
)
SELECT
    v.tenant, uuidv7(), v.dag_version_id, v.dag_id, v.version,
    CASE WHEN n %% (%(count)s / 20) = 7 THEN 'failed' WHEN n %% 3 = 0 THEN 'cancelled' ELSE 'completed' END,
    md5(n::text), sha256('x'), sha256('y'), 'rows', t.started_utc, t.started_utc, 1, 0, 4
FROM generate_series(1, %(count)s) AS n
CROSS JOIN LATERAL (
    SELECT %(epoch)s::timestamptz + greatest(n, %(count)s / 5) * INTERVAL '1 second' AS started_utc
) AS t
INNER JOIN orch.dag_versions AS v
    ON v.tenant = %(tenant)s AND v.dag_id = CASE WHEN n %% (%(count)s / 20) = 3 THEN 'rare' ELSE 'common' END
"""

OTHERS = 20_000
_MANY_VERSIONS = """
INSERT INTO orch.dag_versions (
    tenant, dag_id, version, precedence, spec_hash, step_count, metadata, definition, created_by, disabled_utc
)
SELECT
    %(tenant)s, CASE WHEN n %% 2 = 0 THEN 'wide' ELSE 'narrow-' || n END, '1.0.' || n, lpad(n::text, 8, '0'),
    sha256('x'), 1, '{}', '{}', 'rows', CASE WHEN n %% (%(count)s / 20) = 2 THEN now() END
FROM generate_series(1, %(count)s) AS n
"""
_MANY_STEPS = """
WITH r AS (
    INSERT INTO orch.runs (
        tenant, run_id, dag_version_id, dag_id, dag_version, status, trace_id, inputs_hash, created_by,
        started_utc, step_count, open_steps
    )
    SELECT
        v.tenant, uuidv7(), v.dag_version_id, v.dag_id, v.version, 'running', 'x', sha256('x'), 'rows',
        %(epoch)s, %(count)s, 0
    FROM orch.dag_versions AS v WHERE v.tenant = %(tenant)s
    RETURNING tenant, run_id, dag_version_id
),

d AS (
    INSERT INTO orch.dag_steps (
        tenant, dag_version_id, step_no, step_id, uses, params, run_on, disabled, max_attempts,
        initial_delay_ms, max_delay_ms, multiplier, timeout_ms, pool, predecessors, reads_inputs, refs
    )
    SELECT
        r.tenant, r.dag_version_id, n, 's' || n, 'noop', '{}', 'success', FALSE, 1, 0, 0, 1, 1, 'default',
        0, FALSE, '{}'
    FROM r, generate_series(0, %(count)s - 1) AS n
)

INSERT INTO orch.steps (tenant, run_id, step_no, status, pool, waiting)
SELECT r.tenant, r.run_id, n, 'succeeded', 'default', 0 FROM r, generate_series(0, %(count)s - 1) AS n
RETURNING run_id
"""
_MANY_AUDITED = """
INSERT INTO orch.audit (tenant, audit_id, at_utc, subject, action, object, trace_id, outcome, status)
SELECT
    %(tenant)s, uuidv7(), %(epoch)s::timestamptz + greatest(n, %(count)s / 5) * INTERVAL '1 second', 'rows',
    CASE WHEN n %% (%(count)s / 20) = 7 THEN 'dag.publish' ELSE 'run.start' END, '/', 'x', 'accepted', 200
FROM generate_series(1, %(count)s) AS n
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Writes as the owner of the database, whom row-level security does not bind; each row at once."""

    cur: Any

    def version(self, tenant: str, dag_id: str, version: str = "1.0.0", *, active: bool = True) -> None:
        disabled_utc = None if active else EPOCH
        self.cur.execute(_VERSION, (tenant, dag_id, version, versions.precedence(version), disabled_utc))

    def run(self, tenant: str, dag_id: str, status: RunStatus, second: int) -> UUID:
        """Add a run of the DAG that started ``second`` seconds after the epoch."""
        run_id = uuid4()
        started = EPOCH + timedelta(seconds=second)
        self.cur.execute(_RUN, (str(run_id), status, started, tenant, dag_id))
        return run_id

    def audit(self, tenant: str, action: str, second: int) -> UUID:
        audit_id = uuid4()
        self.cur.execute(_AUDIT, (tenant, str(audit_id), EPOCH + timedelta(seconds=second), action))
        return audit_id

    def many_runs(self, tenant: str, count: int) -> None:
        """Add ended runs, one a second, by one statement.

        Twenty of them failed, and twenty are of the DAG ``rare`` rather than ``common``. The
        first fifth started in the same millisecond.
        """
        for dag_id in ("common", "rare"):
            self.version(tenant, dag_id)
        # Foreign keys cost a third of the time, and each names one of the two versions above.
        self.cur.execute("SET session_replication_role = replica")
        self.cur.execute(_MANY_RUNS, {"tenant": tenant, "count": count, "epoch": EPOCH})
        self.cur.execute("RESET session_replication_role")

    def many_others(self, tenant: str) -> None:
        """Add 20,000 versions, half of them of one DAG and twenty disabled, and as many lines to the
        audit trail, twenty of them of ``dag.publish`` and a fifth of the same millisecond.
        """
        wanted = {"tenant": tenant, "count": OTHERS, "epoch": EPOCH}
        self.cur.execute(_MANY_VERSIONS, wanted)
        self.cur.execute(_MANY_AUDITED, wanted)

    def many_steps(self, tenant: str) -> UUID:
        """Add a run with 20,000 steps, to a tenant that has none yet."""
        self.version(tenant, "long")
        self.cur.execute(_MANY_STEPS, {"tenant": tenant, "count": OTHERS, "epoch": EPOCH})
        return UUID(self.cur.fetchone()[0])


@contextmanager
def rows(owner_url: str) -> Iterator[Rows]:
    """Write into a database, in autocommit."""
    connection = psycopg2.connect(owner_url)
    connection.autocommit = True
    try:
        with connection.cursor() as cur:
            yield Rows(cur=cur)
    finally:
        connection.close()
