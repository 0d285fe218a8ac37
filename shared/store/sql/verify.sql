-- Rules that the ledger keeps at any moment, over all tenants. Each query gives a row for whatever breaks
-- one: the rule as a sentence, the tenant, the run, and what of it.

-- name: broken_chains
-- Events that are missing, and hashes that do not follow from what came before.
WITH linked AS (
    SELECT
        e.tenant, e.run_id, e.seq, e.hash, row_number() OVER w AS place,
        (e.xid, e.event_id) > (lag(e.xid) OVER w, lag(e.event_id) OVER w) AS in_order,
        sha256(
            coalesce(lag(e.hash) OVER w, decode(repeat('00', 32), 'hex')) || convert_to(e.line, 'UTF8')
        ) AS due
    FROM orch.events AS e
    WINDOW w AS (PARTITION BY e.tenant, e.run_id ORDER BY e.seq)
),
last_ones AS (
    SELECT DISTINCT ON (e.tenant, e.run_id) e.tenant, e.run_id, e.seq, e.hash, e.xid
    FROM orch.events AS e
    ORDER BY e.tenant, e.run_id, e.seq DESC
)
SELECT
    'the events of a run are numbered from 1 without a gap' AS rule, l.tenant, l.run_id::text AS run_id,
    'event ' || l.seq AS place
FROM linked AS l WHERE l.seq <> l.place
UNION ALL
SELECT
    'an event''s hash is that of the hash before it and its line', l.tenant, l.run_id::text,
    'event ' || l.seq
FROM linked AS l WHERE l.hash <> l.due
UNION ALL
SELECT 'the events of a run are streamed in their order', l.tenant, l.run_id::text, 'event ' || l.seq
FROM linked AS l WHERE NOT l.in_order
UNION ALL
SELECT
    'a run''s row has the number and the hash of its last event', r.tenant, r.run_id::text, 'event ' || r.seq
FROM orch.runs AS r
LEFT JOIN last_ones AS l ON r.tenant = l.tenant AND r.run_id = l.run_id
WHERE l.seq IS DISTINCT FROM r.seq OR l.hash IS DISTINCT FROM r.ledger_head
UNION ALL
SELECT
    'an event is of a transaction that this PostgreSQL has begun', l.tenant, l.run_id::text,
    'event ' || l.seq
FROM last_ones AS l WHERE l.xid >= pg_snapshot_xmax(pg_current_snapshot())
UNION ALL
SELECT 'an event belongs to a run of its tenant', l.tenant, l.run_id::text, 'event ' || l.seq
FROM last_ones AS l
WHERE NOT EXISTS (SELECT 1 FROM orch.runs AS r WHERE r.tenant = l.tenant AND r.run_id = l.run_id);

-- name: wrong_histories
-- What the events tell that cannot have happened, or that the rows do not show.
WITH parsed AS MATERIALIZED (
    SELECT e.tenant, e.run_id, e.seq, e.line::jsonb AS event FROM orch.events AS e
),
told AS MATERIALIZED (
    SELECT
        p.tenant, p.run_id, p.seq, p.event ->> 'type' AS type, p.event ->> 'stepId' AS step_id,
        p.event ->> 'stepStatus' AS step_status, (p.event ->> 'attempt')::integer AS attempt,
        p.event ->> 'tenant' = p.tenant AND p.event ->> 'runId' = p.run_id::text
        AND (p.event ->> 'seq')::integer = p.seq AS of_its_row
    FROM parsed AS p
),
changes AS MATERIALIZED (
    SELECT
        t.tenant, t.run_id, t.seq, t.step_id, t.step_status, t.attempt,
        coalesce(lag(t.step_status) OVER w, 'pending') AS source,
        coalesce(lag(t.attempt) OVER w, 0) AS before,
        lead(t.seq) OVER w IS NULL AS is_last
    FROM told AS t
    WHERE t.type = 'step.updated'
    WINDOW w AS (PARTITION BY t.tenant, t.run_id, t.step_id ORDER BY t.seq)
),
steps AS MATERIALIZED (
    SELECT s.tenant, s.run_id, s.step_no, r.dag_version_id, d.step_id, s.status::text AS status, s.attempt
    FROM orch.steps AS s
    INNER JOIN orch.runs AS r ON s.tenant = r.tenant AND s.run_id = r.run_id
    INNER JOIN orch.dag_steps AS d
        ON r.tenant = d.tenant AND r.dag_version_id = d.dag_version_id AND s.step_no = d.step_no
),
spans AS MATERIALIZED (
    SELECT
        s.tenant, s.run_id, s.step_no, s.dag_version_id, s.step_id,
        min(c.seq) FILTER (WHERE c.step_status = 'running') AS begun,
        max(c.seq) FILTER (
            WHERE c.step_status IN ('succeeded', 'failed', 'skipped', 'cancelled')
        ) AS ended
    FROM steps AS s
    INNER JOIN changes AS c ON s.tenant = c.tenant AND s.run_id = c.run_id AND s.step_id = c.step_id
    GROUP BY s.tenant, s.run_id, s.step_no, s.dag_version_id, s.step_id
),
endings AS (
    SELECT
        t.tenant, t.run_id, count(*) AS n, max(t.seq) AS seq,
        max(substring(t.type FROM 5)) AS status
    FROM told AS t
    WHERE t.type IN ('run.completed', 'run.failed', 'run.cancelled')
    GROUP BY t.tenant, t.run_id
)
SELECT
    'an event tells of the run whose it is' AS rule, t.tenant, t.run_id::text AS run_id,
    'event ' || t.seq AS place
FROM told AS t WHERE t.of_its_row IS NOT TRUE
UNION ALL
SELECT
    'a run''s first event, and no other, is that it was started', t.tenant, t.run_id::text,
    'event ' || t.seq
FROM told AS t WHERE (t.type = 'run.started') <> (t.seq = 1)
UNION ALL
SELECT
    'a step goes from state to state by the table of transitions', c.tenant, c.run_id::text,
    c.step_id || ' ' || c.source || '>' || c.step_status
FROM changes AS c WHERE c.source || '>' || c.step_status <> ALL(%(legal)s::text [])
UNION ALL
SELECT
    'the number of the attempt grows by one with each claim, and with nothing else', c.tenant, c.run_id::text,
    c.step_id || ' ' || c.before || '>' || c.attempt
FROM changes AS c WHERE c.attempt <> c.before + (c.step_status = 'running')::integer
UNION ALL
SELECT 'a step is as its last event tells', s.tenant, s.run_id::text, s.step_id || ' ' || s.status
FROM steps AS s
LEFT JOIN changes AS c
    ON s.tenant = c.tenant AND s.run_id = c.run_id AND s.step_id = c.step_id AND c.is_last
WHERE coalesce(c.step_status, 'pending') <> s.status OR coalesce(c.attempt, 0) <> s.attempt
UNION ALL
SELECT
    'a step begins after all its predecessors have ended', b.tenant, b.run_id::text,
    p.step_id || '>' || b.step_id
FROM spans AS b
INNER JOIN orch.dag_edges AS e
    ON b.tenant = e.tenant AND b.dag_version_id = e.dag_version_id AND b.step_no = e.to_no
INNER JOIN steps AS p ON b.tenant = p.tenant AND b.run_id = p.run_id AND e.from_no = p.step_no
LEFT JOIN spans AS q ON p.tenant = q.tenant AND p.run_id = q.run_id AND p.step_no = q.step_no
WHERE b.begun IS NOT NULL AND (q.ended IS NULL OR q.ended > b.begun)
UNION ALL
SELECT
    'a run has one last event when it has ended, of the same kind, and none before', r.tenant,
    r.run_id::text, r.status::text
FROM orch.runs AS r
LEFT JOIN endings AS e ON r.tenant = e.tenant AND r.run_id = e.run_id
WHERE
    (r.status = 'running') <> (e.n IS NULL)
    OR e.n > 1 OR e.status <> r.status::text OR e.seq <> r.seq;

-- name: wrong_attempts
-- Attempts that overlap, win twice, come after the end, or are not counted.
WITH attempts AS MATERIALIZED (
    SELECT
        a.tenant, a.run_id, a.step_no, a.attempt, a.status::text AS status, a.started_utc, a.ended_utc,
        row_number() OVER w AS place, lag(a.status::text) OVER w AS before,
        lag(a.ended_utc) OVER w AS before_utc
    FROM orch.attempts AS a
    WINDOW w AS (PARTITION BY a.tenant, a.run_id, a.step_no ORDER BY a.attempt)
),
counts AS MATERIALIZED (
    SELECT
        a.tenant, a.run_id, a.step_no, count(*) AS n,
        count(*) FILTER (WHERE a.status = 'succeeded') AS won,
        count(*) FILTER (WHERE a.status = 'running') AS running,
        count(*) FILTER (WHERE a.status = 'lost') AS lost,
        count(*) FILTER (WHERE a.status = 'released') AS released
    FROM attempts AS a
    GROUP BY a.tenant, a.run_id, a.step_no
)
SELECT
    'the attempts at a step are numbered from 1' AS rule, a.tenant, a.run_id::text AS run_id,
    'step ' || a.step_no || ' attempt ' || a.attempt AS place
FROM attempts AS a WHERE a.attempt <> a.place
UNION ALL
SELECT
    'an attempt begins when the one before it has ended', a.tenant, a.run_id::text,
    'step ' || a.step_no || ' attempt ' || a.attempt
FROM attempts AS a WHERE a.before IS NOT NULL AND (a.before_utc IS NULL OR a.before_utc > a.started_utc)
UNION ALL
SELECT
    'no attempt follows one that succeeded or was cancelled', a.tenant, a.run_id::text,
    'step ' || a.step_no || ' attempt ' || a.attempt
FROM attempts AS a WHERE a.before IN ('succeeded', 'cancelled')
UNION ALL
SELECT
    'an attempt has an end when it does not run, and no other', a.tenant, a.run_id::text,
    'step ' || a.step_no || ' attempt ' || a.attempt
FROM attempts AS a WHERE (a.status = 'running') <> (a.ended_utc IS NULL)
UNION ALL
SELECT
    'no attempt begins after the cancellation of its run was requested, or after the run''s end', a.tenant,
    a.run_id::text, 'step ' || a.step_no || ' attempt ' || a.attempt
FROM attempts AS a
INNER JOIN orch.runs AS r ON a.tenant = r.tenant AND a.run_id = r.run_id
WHERE a.started_utc > least(r.cancel_requested_utc, r.ended_utc)
UNION ALL
SELECT
    'a step has counted its attempts, and those that were lost or released', s.tenant, s.run_id::text,
    'step ' || s.step_no
FROM orch.steps AS s
LEFT JOIN counts AS c ON s.tenant = c.tenant AND s.run_id = c.run_id AND s.step_no = c.step_no
WHERE
    s.attempt <> coalesce(c.n, 0) OR s.lost <> coalesce(c.lost, 0) OR s.released <> coalesce(c.released, 0)
UNION ALL
SELECT
    'a step that succeeded has one attempt that did, and no other step has one', s.tenant, s.run_id::text,
    'step ' || s.step_no
FROM orch.steps AS s
LEFT JOIN counts AS c ON s.tenant = c.tenant AND s.run_id = c.run_id AND s.step_no = c.step_no
WHERE (s.status = 'succeeded')::integer <> coalesce(c.won, 0)
UNION ALL
SELECT
    'a step that runs has one attempt that does, and no other step has one', s.tenant, s.run_id::text,
    'step ' || s.step_no
FROM orch.steps AS s
LEFT JOIN counts AS c ON s.tenant = c.tenant AND s.run_id = c.run_id AND s.step_no = c.step_no
WHERE (s.status = 'running')::integer <> coalesce(c.running, 0)
UNION ALL
SELECT
    'a step is tried no more often than its policy allows', s.tenant, s.run_id::text, 'step ' || s.step_no
FROM orch.steps AS s
INNER JOIN orch.runs AS r ON s.tenant = r.tenant AND s.run_id = r.run_id
INNER JOIN orch.dag_steps AS d
    ON r.tenant = d.tenant AND r.dag_version_id = d.dag_version_id AND s.step_no = d.step_no
WHERE s.attempt - s.lost - s.released > d.max_attempts OR s.lost > %(max_lost)s
UNION ALL
SELECT
    'an attempt is at a step of its tenant', c.tenant, c.run_id::text, 'step ' || c.step_no
FROM counts AS c
WHERE NOT EXISTS (
    SELECT 1 FROM orch.steps AS s WHERE s.tenant = c.tenant AND s.run_id = c.run_id AND s.step_no = c.step_no
);

-- name: wrong_steps
-- Steps whose columns contradict each other or the steps before them.
WITH upstream AS MATERIALIZED (
    SELECT
        r.tenant, r.run_id, e.to_no AS step_no,
        count(*) FILTER (WHERE p.ended_utc IS NULL) AS open,
        bool_or(p.status = 'failed' OR (p.status = 'skipped' AND p.error_code = 'UPSTREAM_FAILED')) AS failed
    FROM orch.runs AS r
    INNER JOIN orch.dag_edges AS e ON r.tenant = e.tenant AND r.dag_version_id = e.dag_version_id
    INNER JOIN orch.steps AS p ON r.tenant = p.tenant AND r.run_id = p.run_id AND e.from_no = p.step_no
    GROUP BY r.tenant, r.run_id, e.to_no
),
judged AS MATERIALIZED (
    SELECT
        s.tenant, s.run_id, s.step_no, s.status::text AS status, s.error_code, s.attempt, s.waiting,
        d.run_on::text AS run_on, d.disabled, coalesce(u.open, 0) AS open, coalesce(u.failed, FALSE) AS failed
    FROM orch.steps AS s
    INNER JOIN orch.runs AS r ON s.tenant = r.tenant AND s.run_id = r.run_id
    INNER JOIN orch.dag_steps AS d
        ON r.tenant = d.tenant AND r.dag_version_id = d.dag_version_id AND s.step_no = d.step_no
    LEFT JOIN upstream AS u ON s.tenant = u.tenant AND s.run_id = u.run_id AND s.step_no = u.step_no
)
SELECT
    'a step''s times fit its state' AS rule, s.tenant, s.run_id::text AS run_id,
    'step ' || s.step_no || ' ' || s.status AS place
FROM orch.steps AS s
WHERE
    (s.status = 'running') <> (s.lease_until IS NOT NULL)
    OR (s.status = 'retrying') <> (s.due_utc IS NOT NULL)
    OR (s.status IN ('succeeded', 'failed', 'skipped', 'cancelled')) <> (s.ended_utc IS NOT NULL)
    OR (s.status = 'queued' AND s.queued_utc IS NULL)
    OR (s.undecided_utc IS NOT NULL AND s.status <> 'pending')
    OR (s.sent_utc IS NOT NULL AND s.status <> 'queued')
UNION ALL
SELECT
    'a step waits for as many predecessors as are open', j.tenant, j.run_id::text,
    'step ' || j.step_no || ' ' || j.waiting || '/' || j.open
FROM judged AS j WHERE j.status = 'pending' AND j.waiting <> j.open
UNION ALL
SELECT
    'a step is attempted only when its runOn holds and it is not disabled', j.tenant, j.run_id::text,
    'step ' || j.step_no || ' ' || j.run_on
FROM judged AS j
WHERE
    j.attempt > 0
    AND (j.disabled OR (j.run_on = 'success' AND j.failed) OR (j.run_on = 'failure' AND NOT j.failed))
UNION ALL
SELECT
    'a step is skipped for a failure before it only when there was one', j.tenant, j.run_id::text,
    'step ' || j.step_no
FROM judged AS j WHERE j.error_code = 'UPSTREAM_FAILED' AND NOT j.failed
UNION ALL
SELECT
    'no more steps have a place of a concurrency key than it has', s.tenant, min(s.run_id::text),
    s.concurrency_key || ' ' || count(*) || '/' || max(d.concurrency_limit)
FROM orch.steps AS s
INNER JOIN orch.runs AS r ON s.tenant = r.tenant AND s.run_id = r.run_id
INNER JOIN orch.dag_steps AS d
    ON r.tenant = d.tenant AND r.dag_version_id = d.dag_version_id AND s.step_no = d.step_no
WHERE
    s.concurrency_key IS NOT NULL
    AND (s.status = 'running' OR (s.status = 'queued' AND s.sent_utc IS DISTINCT FROM 'infinity'))
GROUP BY s.tenant, s.concurrency_key HAVING count(*) > max(d.concurrency_limit)
UNION ALL
SELECT 'a step belongs to a run of its tenant', s.tenant, s.run_id::text, 'step ' || s.step_no
FROM orch.steps AS s
WHERE NOT EXISTS (SELECT 1 FROM orch.runs AS r WHERE r.tenant = s.tenant AND r.run_id = s.run_id);

-- name: wrong_runs
-- Runs that do not follow from their steps; runs that were acknowledged and are not there; files of nobody.
WITH counts AS MATERIALIZED (
    SELECT
        s.tenant, s.run_id, count(*) AS n,
        count(*) FILTER (WHERE s.status IN ('pending', 'queued', 'running', 'retrying')) AS open,
        count(*) FILTER (WHERE s.status = 'failed') AS failed
    FROM orch.steps AS s
    GROUP BY s.tenant, s.run_id
)
SELECT
    'a run has counted its steps, those that are open and those that failed' AS rule, r.tenant,
    r.run_id::text AS run_id, r.status::text AS place
FROM orch.runs AS r
LEFT JOIN counts AS c ON r.tenant = c.tenant AND r.run_id = c.run_id
WHERE
    r.step_count IS DISTINCT FROM c.n OR r.open_steps IS DISTINCT FROM c.open
    OR r.failed_steps IS DISTINCT FROM c.failed
UNION ALL
SELECT 'a run has ended when no step of it is open', r.tenant, r.run_id::text, r.status::text
FROM orch.runs AS r
WHERE
    (r.status = 'running') <> (r.open_steps > 0) OR (r.status = 'running') <> (r.ended_utc IS NULL)
UNION ALL
SELECT 'a run ends as its steps and its cancellation say', r.tenant, r.run_id::text, r.status::text
FROM orch.runs AS r
WHERE r.status NOT IN (
    'running',
    CASE
        WHEN r.cancel_requested_utc IS NOT NULL THEN 'cancelled'
        WHEN r.failed_steps > 0 THEN 'failed'
        ELSE 'completed'
    END
)
UNION ALL
SELECT
    'the outputsHash of a run is that of its steps', r.tenant, r.run_id::text,
    encode(r.outputs_hash, 'hex')
FROM orch.runs AS r
WHERE r.outputs_hash IS DISTINCT FROM CASE WHEN r.status <> 'running' THEN orch.run_outputs_hash(r) END
UNION ALL
SELECT 'a run has its inputs', r.tenant, r.run_id::text, r.dag_id
FROM orch.runs AS r
WHERE NOT EXISTS (SELECT 1 FROM orch.run_inputs AS i WHERE i.tenant = r.tenant AND i.run_id = r.run_id)
UNION ALL
SELECT 'the id of a run is one tenant''s', min(r.tenant), r.run_id::text, max(r.tenant)
FROM orch.runs AS r GROUP BY r.run_id HAVING count(*) > 1
UNION ALL
SELECT 'a start that was acknowledged is a run', k.tenant, k.body::json ->> 'runId', k.key
FROM orch.idempotency_keys AS k
WHERE
    k.method = 'POST' AND k.path LIKE '%%/runs' AND k.status IN (200, 201)
    AND NOT EXISTS (
        SELECT 1 FROM orch.runs AS r
        WHERE r.tenant = k.tenant AND r.run_id::text = k.body::json ->> 'runId'
    )
UNION ALL
SELECT
    'a tenant owns the log of each of its attempts', a.tenant, a.run_id::text,
    'step ' || a.step_no || ' attempt ' || a.attempt
FROM orch.attempts AS a
WHERE
    a.logs_ref IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM orch.artifacts AS f WHERE f.tenant = a.tenant AND f.sha256 = a.logs_ref)
UNION ALL
SELECT
    'a file was written by an attempt', f.tenant, f.run_id::text,
    'step ' || f.step_no || ' attempt ' || f.attempt
FROM orch.artifact_refs AS f
WHERE NOT EXISTS (
    SELECT 1 FROM orch.attempts AS a
    WHERE
        a.tenant = f.tenant AND a.run_id = f.run_id AND a.step_no = f.step_no AND a.attempt = f.attempt
        AND a.status <> 'running'
);

-- name: count_runs
-- How many runs there are, and how many have not ended.
SELECT count(*), count(*) FILTER (WHERE r.status = 'running') FROM orch.runs AS r;
