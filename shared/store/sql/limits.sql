-- What a tenant may have.

-- name: get_limits
-- The limits of a tenant, where an operator has set any.
SELECT l.weight, l.max_running_steps, l.max_queued_steps
FROM orch.tenant_limits AS l
WHERE l.tenant = %(tenant)s;

-- name: set_limits
-- Set all limits of a tenant.
INSERT INTO orch.tenant_limits (tenant, weight, max_running_steps, max_queued_steps)
VALUES (%(tenant)s, %(weight)s, %(max_running_steps)s, %(max_queued_steps)s)
ON CONFLICT ON CONSTRAINT tenant_limits_pk DO UPDATE
SET
    weight = excluded.weight, max_running_steps = excluded.max_running_steps,
    max_queued_steps = excluded.max_queued_steps;

-- name: lock_queue_limit
-- How many queued steps a tenant may have; until the transaction ends, nobody else gets to know.
SELECT l.max_queued_steps
FROM orch.tenant_limits AS l
WHERE l.tenant = %(tenant)s
FOR UPDATE;

-- name: count_first_steps
-- How many steps a start of a version queues at once, those included whose when is to be evaluated first.
SELECT count(*)
FROM orch.dag_steps AS d
WHERE
    d.tenant = %(tenant)s AND d.dag_version_id = %(dag_version_id)s
    AND orch.verdict(d.predecessors, FALSE, d.run_on, d.disabled, d.when_expr) IN ('unlock', 'ask');

-- name: count_queued
-- How many steps of a tenant are queued, counted up to a number. (In the order of the index that has them
-- alone: else the planner might read the tenant's whole history.)
SELECT count(*)
FROM (
    (
        SELECT s.step_no FROM orch.steps AS s
        WHERE s.tenant = %(tenant)s AND s.status = 'queued' AND s.sent_utc IS NULL
        ORDER BY s.tenant, s.pool, s.queued_utc, s.run_id, s.step_no LIMIT %(max_rows)s
    )
    UNION ALL
    (
        SELECT s.step_no FROM orch.steps AS s
        WHERE s.tenant = %(tenant)s AND s.status = 'queued' AND s.sent_utc IS NOT NULL
        ORDER BY s.pool, s.sent_utc LIMIT %(max_rows)s
    )
) AS q;
