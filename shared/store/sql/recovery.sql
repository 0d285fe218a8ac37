-- What the sweeper asks for, in small batches.

-- name: wake
-- Queue retries that are due.
SELECT w.tenant, w.pool FROM orch.wake(%(max_rows)s) AS w;

-- name: rescue
-- Take steps away from attempts whose lease ran out.
SELECT q.tenant, q.pool, q.run_id, q.undecided FROM orch.rescue(%(max_rows)s, %(max_lost)s) AS q;

-- name: resend
-- Steps of a pool whose message is out for too long, marked as sent again.
WITH late AS (
    SELECT s.ctid AS place FROM orch.steps AS s
    WHERE
        s.pool = %(pool)s AND s.status = 'queued' AND s.sent_utc IS NOT NULL
        AND s.sent_utc < clock_timestamp() - make_interval(secs => %(older_than_ms)s / 1000.0)
    ORDER BY s.sent_utc
    LIMIT %(max_rows)s
    FOR UPDATE SKIP LOCKED
)
UPDATE orch.steps AS s SET sent_utc = clock_timestamp()
FROM late AS q
WHERE s.ctid = q.place
RETURNING s.tenant, s.run_id, s.step_no;

-- name: count_sent
-- How many messages of a pool are out, by the ledger.
SELECT count(*) FROM orch.steps AS s
WHERE s.pool = %(pool)s AND s.status = 'queued' AND s.sent_utc IS NOT NULL;

-- name: undecided_runs
-- Runs in which a step has waited too long for its when to be evaluated.
SELECT DISTINCT s.tenant, s.run_id FROM orch.steps AS s
WHERE
    s.undecided_utc IS NOT NULL
    AND s.undecided_utc < clock_timestamp() - make_interval(secs => %(older_than_ms)s / 1000.0)
LIMIT %(max_rows)s;

-- name: backlogs
-- Every tenant and pool with ready steps that dispatch does not know of: whoever was to announce them died.
-- It leaps from one tenant and pool to the next, so that it costs the same however many steps wait.
WITH RECURSIVE found AS (
    (
        SELECT s.tenant, s.pool FROM orch.steps AS s
        WHERE s.status = 'queued' AND s.sent_utc IS NULL
        ORDER BY s.tenant, s.pool LIMIT 1
    )
    UNION ALL
    SELECT n.tenant, n.pool FROM found AS f
    CROSS JOIN LATERAL (
        SELECT s.tenant, s.pool FROM orch.steps AS s
        WHERE s.status = 'queued' AND s.sent_utc IS NULL AND (s.tenant, s.pool) > (f.tenant, f.pool)
        ORDER BY s.tenant, s.pool LIMIT 1
    ) AS n
)

SELECT f.tenant, f.pool FROM found AS f
WHERE NOT EXISTS (
    SELECT 1 FROM orch.tenant_queues AS q WHERE q.tenant = f.tenant AND q.pool = f.pool AND q.backlog
);

-- name: next_due_ms
-- How long until the next retry is due.
SELECT ceil(extract(EPOCH FROM min(s.due_utc) - clock_timestamp()) * 1000)::bigint
FROM orch.steps AS s WHERE s.due_utc IS NOT NULL;
