-- Runs: started, read, listed, cancelled. Every change goes through a transition function.

-- name: start
-- Start a run, unless its version is not there, must be looked at first, or its token is taken; the run is
-- then NULL, and the version behind it what there is to look at.
SELECT
    (s.run).run_id, (s.run).trace_id, (s.run).dag_id, (s.run).dag_version, (s.run).status,
    encode((s.run).inputs_hash, 'hex'), encode((s.run).outputs_hash, 'hex'), (s.run).run_token,
    (s.run).created_by, (s.run).started_utc, (s.run).ended_utc, (s.run).cancel_requested_utc,
    (s.run).cancel_reason, (s.run).step_count, (s.run).open_steps, (s.run).failed_steps,
    encode((s.run).ledger_head, 'hex'), (s.run).seq,
    (s.change).ready_pools, (s.change).undecided, (s.change).keys,
    s.must_check,
    (s.chosen).dag_version_id, (s.chosen).version, encode((s.chosen).spec_hash, 'hex'), (s.chosen).active,
    (s.chosen).inputs_schema, (s.chosen).queue_limited
FROM orch.start_named_run(
    %(tenant)s, %(run_id)s, %(dag_id)s, %(version)s, %(checked)s, %(inputs)s::json,
    decode(%(inputs_hash)s, 'hex'), %(run_token)s, %(trace_id)s, %(created_by)s
) AS s;

-- name: get
-- One run.
SELECT
    r.run_id, r.trace_id, r.dag_id, r.dag_version, r.status, encode(r.inputs_hash, 'hex'),
    encode(r.outputs_hash, 'hex'), r.run_token, r.created_by, r.started_utc, r.ended_utc,
    r.cancel_requested_utc, r.cancel_reason, r.step_count, r.open_steps, r.failed_steps,
    encode(r.ledger_head, 'hex'), r.seq
FROM orch.runs AS r
WHERE r.tenant = %(tenant)s AND r.run_id = %(run_id)s;

-- name: get_with_steps
-- One run, and its steps as the API shows them.
SELECT
    r.run_id, r.trace_id, r.dag_id, r.dag_version, r.status, encode(r.inputs_hash, 'hex'),
    encode(r.outputs_hash, 'hex'), r.run_token, r.created_by, r.started_utc, r.ended_utc,
    r.cancel_requested_utc, r.cancel_reason, r.step_count, r.open_steps, r.failed_steps,
    encode(r.ledger_head, 'hex'), r.seq, orch.shown_steps(r.tenant, r.run_id, r.dag_version_id)
FROM orch.runs AS r
WHERE r.tenant = %(tenant)s AND r.run_id = %(run_id)s;

-- name: get_by_token
-- The run that a token started.
SELECT
    r.run_id, r.trace_id, r.dag_id, r.dag_version, r.status, encode(r.inputs_hash, 'hex'),
    encode(r.outputs_hash, 'hex'), r.run_token, r.created_by, r.started_utc, r.ended_utc,
    r.cancel_requested_utc, r.cancel_reason, r.step_count, r.open_steps, r.failed_steps,
    encode(r.ledger_head, 'hex'), r.seq
FROM orch.runs AS r
WHERE r.tenant = %(tenant)s AND r.run_token = %(run_token)s;

-- name: list_runs
-- Runs, newest first, after the last one seen; max_rows NULL: all of them.
-- Each combination of filters has an index of its own, which the CASE chooses by repeating its condition.
-- Those that started in the same millisecond as the last one seen are sought apart, since the two halves of
-- the key run in opposite directions: there may be a million of them.
WITH matching AS NOT MATERIALIZED (
    SELECT
        r.run_id, r.trace_id, r.dag_id, r.dag_version, r.status, encode(r.inputs_hash, 'hex') AS inputs_hash,
        encode(r.outputs_hash, 'hex') AS outputs_hash, r.run_token, r.created_by, r.started_utc, r.ended_utc,
        r.cancel_requested_utc, r.cancel_reason, r.step_count, r.open_steps, r.failed_steps,
        encode(r.ledger_head, 'hex') AS ledger_head, r.seq
    FROM orch.runs AS r
    WHERE
        r.tenant = %(tenant)s
        AND CASE
            WHEN %(dag_id)s::text IS NULL AND %(status)s::text IS NULL THEN r.step_count > 0
            WHEN %(status)s::text IS NULL THEN r.dag_version_id > 0
            WHEN %(dag_id)s::text IS NULL THEN r.trace_id <> ''
            ELSE r.dag_version <> ''
        END
        AND (%(dag_id)s::text IS NULL OR r.dag_id = %(dag_id)s)
        AND (%(status)s::text IS NULL OR r.status = %(status)s)
        AND (%(from_utc)s::timestamptz IS NULL OR r.started_utc >= %(from_utc)s)
        AND (%(to_utc)s::timestamptz IS NULL OR r.started_utc < %(to_utc)s)
)

SELECT page.* FROM (
    (
        SELECT m.* FROM matching AS m
        WHERE m.started_utc = %(after_utc)s::timestamptz AND m.run_id > %(after_run_id)s::uuid
        ORDER BY m.started_utc DESC, m.run_id
        LIMIT %(max_rows)s
    )
    UNION ALL
    (
        SELECT m.* FROM matching AS m
        WHERE %(after_utc)s::timestamptz IS NULL OR m.started_utc < %(after_utc)s
        ORDER BY m.started_utc DESC, m.run_id
        LIMIT %(max_rows)s
    )
) AS page
ORDER BY page.started_utc DESC, page.run_id
LIMIT %(max_rows)s;

-- name: cancel
-- Request a cancellation; the status that the run has then, NULL when there is no such run.
SELECT orch.cancel_run(%(tenant)s, %(run_id)s, %(reason)s);
