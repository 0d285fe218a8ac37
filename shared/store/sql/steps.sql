-- Steps and attempts, as read by people and clients.

-- name: list_steps
-- Steps of a run in topological order, after the last one seen, without their outputs, which may be large;
-- max_rows NULL: all of them.
SELECT
    d.step_id, s.step_no, s.status, d.uses, s.pool, s.attempt, s.error_code, s.error_message,
    encode(s.inputs_hash, 'hex'), encode(s.outputs_hash, 'hex'),
    NULL,
    s.queued_utc, s.started_utc, s.ended_utc, s.due_utc
FROM orch.runs AS r
INNER JOIN orch.steps AS s ON s.tenant = r.tenant AND s.run_id = r.run_id
CROSS JOIN LATERAL (
    SELECT q.step_id, q.uses FROM orch.dag_steps AS q
    WHERE q.tenant = r.tenant AND q.dag_version_id = r.dag_version_id AND q.step_no = s.step_no
    OFFSET 0
) AS d
WHERE r.tenant = %(tenant)s AND r.run_id = %(run_id)s AND s.step_no > %(after_no)s
ORDER BY s.step_no
LIMIT %(max_rows)s;

-- name: get_step
-- One step of a run, by its id.
SELECT
    d.step_id, s.step_no, s.status, d.uses, s.pool, s.attempt, s.error_code, s.error_message,
    encode(s.inputs_hash, 'hex'), encode(s.outputs_hash, 'hex'),
    CASE WHEN s.status = 'skipped' THEN '{}' ELSE s.outputs END,
    s.queued_utc, s.started_utc, s.ended_utc, s.due_utc
FROM orch.runs AS r
INNER JOIN orch.dag_steps AS d
    ON
        d.tenant = r.tenant AND d.dag_version_id = r.dag_version_id
        AND d.step_id = %(step_id)s AND d.step_no >= 0
INNER JOIN orch.steps AS s ON s.tenant = r.tenant AND s.run_id = r.run_id AND s.step_no = d.step_no
WHERE r.tenant = %(tenant)s AND r.run_id = %(run_id)s;

-- name: list_attempts
-- The attempts of a step, first to last.
SELECT
    a.attempt, a.status, a.worker_id, a.started_utc, a.ended_utc, a.error_code, a.error_message,
    encode(a.logs_ref, 'hex'), encode(a.outputs_hash, 'hex')
FROM orch.attempts AS a
WHERE a.tenant = %(tenant)s AND a.run_id = %(run_id)s AND a.step_no = %(step_no)s
ORDER BY a.attempt;
