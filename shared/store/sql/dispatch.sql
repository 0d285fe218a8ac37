-- Fair dispatch.

-- name: pick
-- Ready steps of a pool to send now, marked as sent.
SELECT p.tenant, p.run_id, p.step_no FROM orch.pick(%(pool)s, %(tenant)s) AS p;
