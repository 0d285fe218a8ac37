-- What a worker does with steps: settle (claim and complete), decide, renew.

-- name: settle
-- Settle what a worker process has to tell of runs of a tenant.
SELECT s.place, s.told
FROM orch.settle_runs(%(tenant)s, %(told)s, %(share)s, %(worker_id)s, %(lease_ms)s) AS s;

-- name: decide
-- Unlock or skip steps whose when was evaluated; and claim one of the unlocked when asked. But not for a
-- tenant with a limit: unlike a completion, a decision ends no step in place of the one that it would claim.
SELECT
    c.accepted, c.ready_pools, c.undecided, c.run_status,
    c.step_no, c.step_id, c.attempt, c.tries, c.dag_id, c.dag_version, c.trace_id, c.uses, c.params,
    c.when_expr, c.max_attempts, c.initial_delay_ms, c.max_delay_ms, c.multiplier, c.timeout_ms,
    c.pool, c.inputs, c.ancestors, c.keys
FROM orch.decide(
    %(tenant)s, %(run_id)s, %(unlock)s::integer [], %(skip)s::integer [],
    CASE WHEN orch.is_limited(%(tenant)s) THEN '{}' ELSE %(handoff_pools)s::text [] END,
    %(worker_id)s, %(lease_ms)s
) AS c;

-- name: list_undecided
-- The steps of a run that wait for their when, with all that it may look at.
SELECT
    s.step_no, d.step_id, d.when_expr,
    CASE WHEN d.reads_inputs THEN i.inputs END,
    CASE WHEN cardinality(d.refs) > 0 THEN orch.ancestors(r, d.refs) END
FROM orch.runs AS r
INNER JOIN orch.run_inputs AS i ON i.tenant = r.tenant AND i.run_id = r.run_id
INNER JOIN orch.steps AS s ON s.tenant = r.tenant AND s.run_id = r.run_id
CROSS JOIN LATERAL (
    SELECT q.step_id, q.when_expr, q.reads_inputs, q.refs FROM orch.dag_steps AS q
    WHERE q.tenant = r.tenant AND q.dag_version_id = r.dag_version_id AND q.step_no = s.step_no
    OFFSET 0
) AS d
WHERE r.tenant = %(tenant)s AND r.run_id = %(run_id)s AND s.undecided_utc IS NOT NULL
ORDER BY s.step_no;

-- name: renew
-- Renew the leases that a worker holds; those that come back are valid, with the wish to cancel.
UPDATE orch.steps AS s
SET lease_until = clock_timestamp() + make_interval(secs => %(lease_ms)s / 1000.0)
FROM unnest(
    %(tenants)s::text [], %(run_ids)s::uuid [], %(step_nos)s::integer [], %(attempts)s::integer []
) AS h (tenant, run_id, step_no, attempt)
INNER JOIN orch.runs AS r ON r.tenant = h.tenant AND r.run_id = h.run_id
WHERE
    s.tenant = h.tenant AND s.run_id = h.run_id AND s.step_no = h.step_no
    AND s.status = 'running' AND s.attempt = h.attempt
RETURNING s.tenant, s.run_id, s.step_no, s.attempt, r.cancel_requested_utc IS NOT NULL;
