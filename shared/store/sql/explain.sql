-- Why a step is where it is.

-- name: get_facts
-- What the ledger knows of one step, by its id.
SELECT
    s.step_no, s.status, s.attempt, s.pool, s.waiting, s.undecided_utc IS NOT NULL, s.queued_utc,
    nullif(s.sent_utc, 'infinity'),
    s.due_utc, s.ended_utc, s.error_code, s.error_message, r.cancel_requested_utc, r.cancel_reason,
    s.concurrency_key, d.concurrency_limit, coalesce(s.sent_utc = 'infinity', FALSE)
FROM orch.runs AS r
INNER JOIN orch.dag_steps AS d
    ON
        d.tenant = r.tenant AND d.dag_version_id = r.dag_version_id
        AND d.step_id = %(step_id)s AND d.step_no >= 0
INNER JOIN orch.steps AS s ON s.tenant = r.tenant AND s.run_id = r.run_id AND s.step_no = d.step_no
WHERE r.tenant = %(tenant)s AND r.run_id = %(run_id)s;

-- name: open_predecessors
-- The first predecessors of a step that have not ended.
SELECT b.step_id, b.status
FROM orch.runs AS r
INNER JOIN orch.dag_edges AS e
    ON e.tenant = r.tenant AND e.dag_version_id = r.dag_version_id AND e.to_no = %(step_no)s
CROSS JOIN LATERAL (
    SELECT d.step_id, s.status FROM orch.steps AS s, orch.dag_steps AS d
    WHERE
        s.tenant = r.tenant AND s.run_id = r.run_id AND s.step_no = e.from_no AND s.ended_utc IS NULL
        AND d.tenant = r.tenant AND d.dag_version_id = r.dag_version_id AND d.step_no = e.from_no
    OFFSET 0
) AS b
WHERE r.tenant = %(tenant)s AND r.run_id = %(run_id)s
ORDER BY e.from_no
LIMIT %(max_rows)s;

-- name: count_ahead
-- How many queued steps of the tenant and pool come before one, counted up to a number: the sent ones in
-- the order of their sending, then the others in that of dispatch. (Each in the order of its own index.)
SELECT count(*)
FROM (
    (
        SELECT s.step_no FROM orch.steps AS s
        WHERE
            s.tenant = %(tenant)s AND s.pool = %(pool)s AND s.status = 'queued' AND s.sent_utc IS NOT NULL
            AND s.sent_utc < 'infinity' AND (%(sent_utc)s::timestamptz IS NULL OR s.sent_utc < %(sent_utc)s)
        ORDER BY s.pool, s.sent_utc LIMIT %(max_rows)s
    )
    UNION ALL
    (
        SELECT s.step_no FROM orch.steps AS s
        WHERE
            s.tenant = %(tenant)s AND s.pool = %(pool)s AND s.status = 'queued' AND s.sent_utc IS NULL
            AND %(sent_utc)s::timestamptz IS NULL
            AND (s.queued_utc, s.run_id, s.step_no)
            < (%(queued_utc)s::timestamptz, %(run_id)s::uuid, %(step_no)s::integer)
        ORDER BY s.queued_utc, s.run_id, s.step_no LIMIT %(max_rows)s
    )
) AS q;

-- name: listeners
-- The workers that listen on a pool (any worker, when none is named), and their slots.
SELECT count(*), coalesce(sum(w.slots), 0)
FROM orch.workers AS w
WHERE
    (%(pool)s::text IS NULL OR %(pool)s = ANY(w.pools))
    AND orch.is_alive(w.seen_utc, w.heartbeat_ms);

-- name: active_steps
-- The tenant's steps that run, or are sent to be run: what a limit of running steps counts.
SELECT a.run_id, d.step_id, a.status
FROM (
    (
        SELECT s.tenant, s.run_id, s.step_no, s.status FROM orch.steps AS s
        WHERE s.tenant = %(tenant)s AND s.lease_until IS NOT NULL
        ORDER BY s.lease_until LIMIT %(max_rows)s
    )
    UNION ALL
    (
        SELECT s.tenant, s.run_id, s.step_no, s.status FROM orch.steps AS s
        WHERE
            s.tenant = %(tenant)s AND s.status = 'queued' AND s.sent_utc IS NOT NULL
            AND s.sent_utc < 'infinity'
        ORDER BY s.pool, s.sent_utc LIMIT %(max_rows)s
    )
) AS a
CROSS JOIN LATERAL (
    SELECT q.step_id FROM orch.runs AS r, orch.dag_steps AS q
    WHERE
        r.tenant = a.tenant AND r.run_id = a.run_id
        AND q.tenant = r.tenant AND q.dag_version_id = r.dag_version_id AND q.step_no = a.step_no
    OFFSET 0
) AS d
LIMIT %(max_rows)s;

-- name: count_in_line
-- How many steps wait for longer than one for a place of its concurrency key, counted up to a number.
SELECT count(*)
FROM (
    SELECT s.step_no FROM orch.steps AS s
    WHERE
        s.tenant = %(tenant)s AND s.concurrency_key = %(key)s
        AND s.status = 'queued' AND s.sent_utc = 'infinity' AND s.concurrency_key IS NOT NULL
        AND (s.queued_utc, s.run_id, s.step_no)
        < (%(queued_utc)s::timestamptz, %(run_id)s::uuid, %(step_no)s::integer)
    ORDER BY s.queued_utc, s.run_id, s.step_no LIMIT %(max_rows)s
) AS q;

-- name: placed_steps
-- The tenant's steps that have a place of a concurrency key.
SELECT a.run_id, d.step_id, a.status
FROM (
    SELECT s.tenant, s.run_id, s.step_no, s.status FROM orch.steps AS s
    WHERE
        s.tenant = %(tenant)s AND s.concurrency_key = %(key)s AND s.concurrency_key IS NOT NULL
        AND (s.lease_until IS NOT NULL OR (s.status = 'queued' AND s.sent_utc IS DISTINCT FROM 'infinity'))
    LIMIT %(max_rows)s
) AS a
CROSS JOIN LATERAL (
    SELECT q.step_id FROM orch.runs AS r, orch.dag_steps AS q
    WHERE
        r.tenant = a.tenant AND r.run_id = a.run_id
        AND q.tenant = r.tenant AND q.dag_version_id = r.dag_version_id AND q.step_no = a.step_no
    OFFSET 0
) AS d;
