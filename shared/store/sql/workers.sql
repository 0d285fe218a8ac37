-- The fleet: which processes listen, on which pools, with how many slots.

-- name: register
-- Add a worker, or tell that it is alive.
INSERT INTO orch.workers AS w (worker_id, pools, slots, heartbeat_ms)
VALUES (%(worker_id)s, %(pools)s, %(slots)s, %(heartbeat_ms)s)
ON CONFLICT (worker_id) DO UPDATE
SET
    pools = excluded.pools, slots = excluded.slots, heartbeat_ms = excluded.heartbeat_ms,
    seen_utc = clock_timestamp();

-- name: share
-- Which share a worker has in the slots of those that serve one of its pools.
SELECT m.slots::double precision / sum(w.slots)
FROM orch.workers AS m
INNER JOIN orch.workers AS w ON w.pools && m.pools AND orch.is_alive(w.seen_utc, w.heartbeat_ms)
WHERE m.worker_id = %(worker_id)s
GROUP BY m.worker_id;

-- name: deregister
-- Remove a worker that stops.
DELETE FROM orch.workers WHERE worker_id = %(worker_id)s;

-- name: forget_dead
-- Remove workers that have not been heard of for an hour.
DELETE FROM orch.workers WHERE seen_utc < clock_timestamp() - INTERVAL '1 hour';

-- name: register_sweeper
-- Add a sweeper, or tell that it is alive.
INSERT INTO orch.sweepers AS w (sweeper_id, heartbeat_ms)
VALUES (%(sweeper_id)s, %(heartbeat_ms)s)
ON CONFLICT (sweeper_id) DO UPDATE SET heartbeat_ms = excluded.heartbeat_ms, seen_utc = clock_timestamp();

-- name: deregister_sweeper
-- Remove a sweeper that stops.
DELETE FROM orch.sweepers WHERE sweeper_id = %(sweeper_id)s;

-- name: forget_dead_sweepers
-- Remove sweepers that have not been heard of for an hour.
DELETE FROM orch.sweepers WHERE seen_utc < clock_timestamp() - INTERVAL '1 hour';
