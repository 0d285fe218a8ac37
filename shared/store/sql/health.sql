-- What operators look at.

-- name: ping
-- Prove that the server answers.
SELECT 1;

-- name: live_workers
-- How many workers were heard of lately.
SELECT count(*) FROM orch.workers AS w WHERE w.seen_utc > clock_timestamp() - INTERVAL '30 seconds';

-- name: queues
-- Depth, age of the oldest step in seconds, and running steps, by tenant and pool.
SELECT
    q.tenant, q.pool, sum(q.depth)::bigint,
    greatest(coalesce(extract(EPOCH FROM clock_timestamp() - min(q.oldest_utc)), 0), 0)::double precision,
    sum(q.running)::bigint
FROM (
    SELECT s.tenant, s.pool, count(*) AS depth, min(s.queued_utc) AS oldest_utc, 0 AS running
    FROM orch.steps AS s
    WHERE s.status = 'queued' AND s.sent_utc IS NULL AND (%(tenant)s::text IS NULL OR s.tenant = %(tenant)s)
    GROUP BY s.tenant, s.pool
    UNION ALL
    SELECT s.tenant, s.pool, count(*), min(s.queued_utc), 0
    FROM orch.steps AS s
    WHERE
        s.status = 'queued' AND s.sent_utc IS NOT NULL
        AND (%(tenant)s::text IS NULL OR s.tenant = %(tenant)s)
    GROUP BY s.tenant, s.pool
    UNION ALL
    SELECT s.tenant, s.pool, 0, NULL, count(*)
    FROM orch.steps AS s
    WHERE s.lease_until IS NOT NULL AND (%(tenant)s::text IS NULL OR s.tenant = %(tenant)s)
    GROUP BY s.tenant, s.pool
) AS q
GROUP BY q.tenant, q.pool
ORDER BY q.tenant, q.pool;
