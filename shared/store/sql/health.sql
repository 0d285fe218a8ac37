-- What operators look at.

-- name: live_workers
-- How many workers were heard of lately.
SELECT count(*) FROM orch.workers AS w WHERE w.seen_utc > clock_timestamp() - INTERVAL '30 seconds';

-- name: queues
-- Depth, age of the oldest step in seconds, and running steps, by tenant and pool.
SELECT
    q.tenant, q.pool, q.depth,
    greatest(coalesce(extract(EPOCH FROM clock_timestamp() - q.oldest_utc), 0), 0)::double precision,
    q.running
FROM orch.queues(%(tenant)s) AS q
ORDER BY q.tenant, q.pool;
