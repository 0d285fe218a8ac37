-- The fleet: which processes listen, on which pools, with how many slots.

-- name: register
-- Add a worker, or tell that it is alive.
INSERT INTO orch.workers AS w (worker_id, pools, slots)
VALUES (%(worker_id)s, %(pools)s, %(slots)s)
ON CONFLICT (worker_id) DO UPDATE
SET pools = excluded.pools, slots = excluded.slots, seen_utc = clock_timestamp();

-- name: deregister
-- Remove a worker that stops.
DELETE FROM orch.workers WHERE worker_id = %(worker_id)s;

-- name: forget_dead
-- Remove workers that have not been heard of for an hour.
DELETE FROM orch.workers WHERE seen_utc < clock_timestamp() - INTERVAL '1 hour';
