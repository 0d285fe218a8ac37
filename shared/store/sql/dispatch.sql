-- Fair dispatch.

-- name: pick
-- Ready steps of a pool to send now, marked as sent; and, without a step, pools to be picked from again.
SELECT p.tenant, p.run_id, p.step_no, p.pool
FROM orch.pick(
    %(pool)s, %(ready)s::text [],
    %(used_by)s::text [], %(messages)s::integer [], %(used_ms)s::double precision []
) AS p;

-- name: admit
-- Give the free places of a key to those who wait; the pools that have ready steps now.
SELECT a.pool FROM orch.admit(%(tenant)s, %(key)s) AS a;
