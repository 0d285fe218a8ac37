-- Runs with all that belongs to them, by start. Each query is read from a cursor of its own, in one snapshot
-- and in step with the others: they take the same runs, in the same order. The subqueries (OFFSET 0) keep the
-- plans to that: runs come in the order of their index, what belongs to each is looked up, and nothing larger
-- than one run is ever sorted.

-- name: list_runs
-- Runs in the order of an export, each with its version's hash and its inputs.
SELECT
    r.run_id, r.trace_id, r.dag_id, r.dag_version, r.status, encode(r.inputs_hash, 'hex'),
    encode(r.outputs_hash, 'hex'), r.run_token, r.created_by, r.started_utc, r.ended_utc,
    r.cancel_requested_utc, r.cancel_reason, r.step_count, r.open_steps, r.failed_steps,
    encode(r.ledger_head, 'hex'), r.seq, encode(b.spec_hash, 'hex'), b.inputs::text
FROM (
    SELECT q.* FROM orch.runs AS q
    WHERE
        q.tenant = %(tenant)s AND q.step_count > 0
        AND (%(dag_id)s::text IS NULL OR q.dag_id = %(dag_id)s)
        AND (%(status)s::text IS NULL OR q.status = %(status)s)
        AND (%(from_utc)s::timestamptz IS NULL OR q.started_utc >= %(from_utc)s)
        AND (%(to_utc)s::timestamptz IS NULL OR q.started_utc < %(to_utc)s)
    ORDER BY q.started_utc, q.run_id
    OFFSET 0
) AS r
CROSS JOIN LATERAL (
    SELECT v.spec_hash, i.inputs
    FROM orch.dag_versions AS v, orch.run_inputs AS i
    WHERE
        v.tenant = r.tenant AND v.dag_version_id = r.dag_version_id
        AND i.tenant = r.tenant AND i.run_id = r.run_id
    OFFSET 0
) AS b
ORDER BY r.started_utc, r.run_id;

-- name: list_steps
-- The steps of those runs, in topological order. Their outputs become text behind the sort, which so holds
-- the addresses of large ones only.
SELECT
    o.run_id, o.step_id, o.step_no, o.status, o.uses, o.pool, o.attempt, o.error_code, o.error_message,
    encode(o.inputs_hash, 'hex'), encode(o.outputs_hash, 'hex'),
    CASE WHEN o.status = 'skipped' THEN '{}' ELSE o.outputs::text END,
    o.queued_utc, o.started_utc, o.ended_utc, o.due_utc
FROM (
    SELECT s.*, d.step_id, d.uses
    FROM (
        SELECT q.tenant, q.run_id, q.dag_version_id, q.started_utc FROM orch.runs AS q
        WHERE
            q.tenant = %(tenant)s AND q.step_count > 0
            AND (%(dag_id)s::text IS NULL OR q.dag_id = %(dag_id)s)
            AND (%(status)s::text IS NULL OR q.status = %(status)s)
            AND (%(from_utc)s::timestamptz IS NULL OR q.started_utc >= %(from_utc)s)
            AND (%(to_utc)s::timestamptz IS NULL OR q.started_utc < %(to_utc)s)
        ORDER BY q.started_utc, q.run_id
        OFFSET 0
    ) AS r
    CROSS JOIN LATERAL (
        SELECT q.* FROM orch.steps AS q
        WHERE q.tenant = r.tenant AND q.run_id = r.run_id
        OFFSET 0
    ) AS s
    CROSS JOIN LATERAL (
        SELECT q.step_id, q.uses FROM orch.dag_steps AS q
        WHERE q.tenant = r.tenant AND q.dag_version_id = r.dag_version_id AND q.step_no = s.step_no
        OFFSET 0
    ) AS d
    ORDER BY r.started_utc, r.run_id, s.step_no
    OFFSET 0
) AS o;

-- name: list_attempts
-- The attempts at those steps, first to last.
SELECT
    r.run_id, a.step_no, a.attempt, a.status, a.worker_id, a.started_utc, a.ended_utc, a.error_code,
    a.error_message, encode(a.logs_ref, 'hex'), encode(a.outputs_hash, 'hex')
FROM (
    SELECT q.tenant, q.run_id, q.started_utc FROM orch.runs AS q
    WHERE
        q.tenant = %(tenant)s AND q.step_count > 0
        AND (%(dag_id)s::text IS NULL OR q.dag_id = %(dag_id)s)
        AND (%(status)s::text IS NULL OR q.status = %(status)s)
        AND (%(from_utc)s::timestamptz IS NULL OR q.started_utc >= %(from_utc)s)
        AND (%(to_utc)s::timestamptz IS NULL OR q.started_utc < %(to_utc)s)
    ORDER BY q.started_utc, q.run_id
    OFFSET 0
) AS r
CROSS JOIN LATERAL (
    SELECT q.* FROM orch.attempts AS q
    WHERE q.tenant = r.tenant AND q.run_id = r.run_id
    OFFSET 0
) AS a
ORDER BY r.started_utc, r.run_id, a.step_no, a.attempt;

-- name: list_events
-- The events of those runs, in order.
SELECT r.run_id, e.seq, e.line, encode(e.hash, 'hex')
FROM (
    SELECT q.tenant, q.run_id, q.started_utc FROM orch.runs AS q
    WHERE
        q.tenant = %(tenant)s AND q.step_count > 0
        AND (%(dag_id)s::text IS NULL OR q.dag_id = %(dag_id)s)
        AND (%(status)s::text IS NULL OR q.status = %(status)s)
        AND (%(from_utc)s::timestamptz IS NULL OR q.started_utc >= %(from_utc)s)
        AND (%(to_utc)s::timestamptz IS NULL OR q.started_utc < %(to_utc)s)
    ORDER BY q.started_utc, q.run_id
    OFFSET 0
) AS r
CROSS JOIN LATERAL (
    SELECT q.seq, q.line, q.hash FROM orch.events AS q
    WHERE q.tenant = r.tenant AND q.run_id = r.run_id
    OFFSET 0
) AS e
ORDER BY r.started_utc, r.run_id, e.seq;
