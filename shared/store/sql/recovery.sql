-- What the sweeper asks for, in small batches.

-- name: wake
-- Queue retries that are due.
SELECT w.tenant, w.pool FROM orch.wake(%(max_rows)s) AS w;

-- name: rescue
-- Take steps away from attempts whose lease ran out.
SELECT q.tenant, q.pool, q.run_id, q.undecided FROM orch.rescue(%(max_rows)s, %(max_lost)s) AS q;

-- name: resend
-- Steps of a pool whose message is out for too long, marked as sent again.
SELECT q.tenant, q.run_id, q.step_no FROM orch.resend(%(pool)s, %(older_than_ms)s, %(max_rows)s) AS q;

-- name: count_sent
-- How many messages of a pool are out, by the ledger.
SELECT count(*) FROM orch.steps AS s
WHERE
    s.pool = %(pool)s AND s.status = 'queued' AND s.sent_utc IS NOT NULL AND s.sent_utc < 'infinity'
    AND NOT orch.is_aside(s.tenant, 'resend', s.run_id, s.step_no);

-- name: ask_undecided
-- Runs in which a step has waited too long for its when to be evaluated, each less often each time.
SELECT q.tenant, q.run_id FROM orch.ask_undecided(%(older_than_ms)s, %(max_rows)s) AS q;

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
    SELECT 1 FROM orch.tenant_queues AS q
    WHERE q.tenant = f.tenant AND q.pool = f.pool AND (q.backlog OR q.held)
);

-- name: let_go
-- The tenants and pools that are out of line although their limit of running steps has room again.
WITH active AS MATERIALIZED (
    SELECT a.tenant, count(*) AS steps
    FROM (
        SELECT s.tenant FROM orch.steps AS s WHERE s.lease_until IS NOT NULL
        UNION ALL
        SELECT s.tenant FROM orch.steps AS s
        WHERE s.status = 'queued' AND s.sent_utc IS NOT NULL AND s.sent_utc < 'infinity'
    ) AS a
    GROUP BY a.tenant
)

SELECT q.tenant, q.pool FROM orch.tenant_queues AS q
LEFT JOIN orch.tenant_limits AS l ON l.tenant = q.tenant
WHERE
    q.held
    AND (
        l.max_running_steps IS NULL
        OR l.max_running_steps > coalesce((SELECT a.steps FROM active AS a WHERE a.tenant = q.tenant), 0)
    );

-- name: keys_with_room
-- The keys that have a free place and steps that wait for one. It leaps from one key to the next, so that
-- it costs the same however many steps wait.
WITH RECURSIVE found AS (
    (
        SELECT s.tenant, s.concurrency_key, s.run_id, s.step_no FROM orch.steps AS s
        WHERE s.status = 'queued' AND s.sent_utc = 'infinity' AND s.concurrency_key IS NOT NULL
        ORDER BY s.tenant, s.concurrency_key, s.queued_utc, s.run_id, s.step_no LIMIT 1
    )
    UNION ALL
    SELECT n.tenant, n.concurrency_key, n.run_id, n.step_no FROM found AS f
    CROSS JOIN LATERAL (
        SELECT s.tenant, s.concurrency_key, s.run_id, s.step_no FROM orch.steps AS s
        WHERE
            s.status = 'queued' AND s.sent_utc = 'infinity' AND s.concurrency_key IS NOT NULL
            AND (s.tenant, s.concurrency_key) > (f.tenant, f.concurrency_key)
        ORDER BY s.tenant, s.concurrency_key, s.queued_utc, s.run_id, s.step_no LIMIT 1
    ) AS n
)

SELECT f.tenant, f.concurrency_key FROM found AS f
CROSS JOIN LATERAL (
    SELECT count(*) AS places FROM orch.steps AS s
    WHERE
        s.tenant = f.tenant AND s.concurrency_key = f.concurrency_key AND s.concurrency_key IS NOT NULL
        AND (s.lease_until IS NOT NULL OR (s.status = 'queued' AND s.sent_utc IS DISTINCT FROM 'infinity'))
) AS h
WHERE h.places < orch.places(f.tenant, f.run_id, f.step_no)
LIMIT %(max_rows)s;

-- name: next_due_ms
-- How long until the next retry is due.
SELECT ceil(extract(EPOCH FROM s.due_utc - clock_timestamp()) * 1000)::bigint FROM orch.steps AS s
WHERE s.due_utc IS NOT NULL AND NOT orch.is_aside(s.tenant, 'wake', s.run_id, -1)
ORDER BY s.due_utc LIMIT 1;

-- name: tell_aside
-- What was set aside and nobody was told of; each row is told of once.
UPDATE orch.set_aside AS a SET told = TRUE
WHERE NOT a.told AND (a.verb <> 'decide' OR a.tries >= %(asked_in_vain)s)
RETURNING a.verb, a.tenant, a.run_id, a.step_no, a.reason;

-- name: forget_aside
-- Remove what was set aside and has not been met again.
DELETE FROM orch.set_aside AS a WHERE a.next_utc < clock_timestamp() - INTERVAL '10 minutes';
