-- The logs of attempts: where each stands, and under which hash it is stored once it is whole.

-- name: get_log
-- A step, and one attempt at it: the newest when none is named. NULLs for an attempt that there is not.
SELECT s.step_no, s.status, s.attempt, a.attempt, a.status, encode(a.logs_ref, 'hex')
FROM orch.runs AS r
INNER JOIN orch.dag_steps AS d
    ON
        d.tenant = r.tenant AND d.dag_version_id = r.dag_version_id
        AND d.step_id = %(step_id)s AND d.step_no >= 0
INNER JOIN orch.steps AS s ON s.tenant = r.tenant AND s.run_id = r.run_id AND s.step_no = d.step_no
LEFT JOIN orch.attempts AS a
    ON
        a.tenant = s.tenant AND a.run_id = s.run_id AND a.step_no = s.step_no
        AND a.attempt = coalesce(%(attempt)s, s.attempt)
WHERE r.tenant = %(tenant)s AND r.run_id = %(run_id)s;
