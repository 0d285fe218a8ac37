-- What operators look at.

-- name: live_workers
-- How many workers were heard of lately.
SELECT count(*) FROM orch.workers AS w WHERE orch.is_alive(w.seen_utc, w.heartbeat_ms);

-- name: queues
-- Depth, age of the oldest step in seconds, and running steps, by tenant and pool.
SELECT
    q.tenant, q.pool, q.depth,
    greatest(coalesce(extract(EPOCH FROM clock_timestamp() - q.oldest_utc), 0), 0)::double precision,
    q.running
FROM orch.queues(%(tenant)s) AS q
ORDER BY q.tenant, q.pool;

-- name: live_sweepers
-- How many sweepers were heard of lately, and when any was heard of last.
SELECT count(*) FILTER (WHERE orch.is_alive(w.seen_utc, w.heartbeat_ms)), max(w.seen_utc)
FROM orch.sweepers AS w;

-- name: set_aside
-- The rows of a tenant, or of all, that are set aside; the oldest first.
SELECT a.tenant, a.verb, a.run_id, a.step_no, a.reason, a.tries, a.first_utc, a.next_utc
FROM orch.set_aside AS a
WHERE
    (%(tenant)s::text IS NULL OR a.tenant = %(tenant)s)
    AND (a.verb <> 'decide' OR a.tries >= %(asked_in_vain)s)
ORDER BY a.first_utc, a.tenant, a.verb, a.run_id, a.step_no
LIMIT %(max_rows)s;
