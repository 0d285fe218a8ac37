-- A step of a pure plugin has no effect but its outputs, and the same ones for the same with: whether it ran
-- once or twice, nobody can tell. So it needs no durable start. A worker that holds a step is told of the
-- pure ones that will wait for nothing but it, and then for each other; it runs them in a row, and their
-- starts and ends are written in one transaction, with the end of the step that it holds.

-- only_no: the one predecessor of a step that is unlocked for certain once that has succeeded: there is no
-- other, no when, and no place to wait for. leads: whether there are such steps behind this one, and so few
-- that they are done sooner one after another than side by side.
ALTER TABLE orch.dag_steps ADD COLUMN only_no integer, ADD COLUMN leads boolean NOT NULL DEFAULT FALSE;

UPDATE orch.dag_steps AS s
SET only_no = e.from_no
FROM orch.dag_edges AS e
WHERE
    e.tenant = s.tenant AND e.dag_version_id = s.dag_version_id AND e.to_no = s.step_no
    AND s.predecessors = 1 AND s.run_on <> 'failure' AND NOT s.disabled
    AND s.when_expr IS NULL AND s.concurrency_key IS NULL;

UPDATE orch.dag_steps AS s
SET leads = TRUE
FROM (
    SELECT o.tenant, o.dag_version_id, o.only_no FROM orch.dag_steps AS o
    GROUP BY o.tenant, o.dag_version_id, o.only_no HAVING count(*) <= 16
) AS b
WHERE b.tenant = s.tenant AND b.dag_version_id = s.dag_version_id AND b.only_no = s.step_no;

-- leads: the same of a step that was taken, if this is its first attempt.
ALTER TYPE orch.claimed ADD ATTRIBUTE leads boolean;

-- As in 0013, and with leads.
CREATE OR REPLACE FUNCTION orch.take(
    r orch.runs, p_step integer, p_from text, p_worker text, p_lease_ms integer
) RETURNS orch.claimed
LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := orch.utc_ms();
    v_claimed orch.claimed;
BEGIN
    WITH taken AS (
        UPDATE orch.steps AS s
        SET
            status = 'running', attempt = s.attempt + 1, worker_id = p_worker, waiting = 0,
            lease_until = clock_timestamp() + make_interval(secs => p_lease_ms / 1000.0),
            queued_utc = CASE WHEN p_from = 'pending' THEN v_now ELSE s.queued_utc END,
            started_utc = coalesce(s.started_utc, v_now), sent_utc = NULL
        WHERE
            s.tenant = r.tenant AND s.run_id = r.run_id AND s.step_no = p_step AND s.status = p_from
            AND s.sent_utc IS DISTINCT FROM 'infinity'
        RETURNING s.attempt, s.attempt - s.lost - s.released AS tries
    ),
    begun AS (
        INSERT INTO orch.attempts (tenant, run_id, step_no, attempt, status, worker_id, started_utc)
        SELECT r.tenant, r.run_id, p_step, t.attempt, 'running', p_worker, v_now
        FROM taken AS t
    )
    SELECT
        p_step, d.step_id, t.attempt, t.tries, r.dag_id, r.dag_version, r.trace_id,
        d.uses, d.params, d.when_expr, d.max_attempts, d.initial_delay_ms, d.max_delay_ms, d.multiplier,
        d.timeout_ms, d.pool,
        CASE
            WHEN d.reads_inputs
                THEN (SELECT i.inputs FROM orch.run_inputs AS i WHERE i.tenant = r.tenant AND i.run_id = r.run_id)
        END,
        CASE WHEN cardinality(d.refs) > 0 THEN orch.ancestors(r, d.refs) END,
        d.leads AND t.attempt = 1
    INTO v_claimed
    FROM taken AS t
    INNER JOIN orch.dag_steps AS d
        ON d.tenant = r.tenant AND d.dag_version_id = r.dag_version_id AND d.step_no = p_step;
    RETURN v_claimed;
END;
$$;

-- The steps that may be run ahead behind p_after: those that are unlocked for certain once it has succeeded,
-- and once they have, of the plugins and pools named; as many as take a moment, each behind the one that it
-- waits for. What they read of other steps and of the run's inputs is given to each of them, perhaps for
-- nothing, so that it must be small, and so must their with. Volatile, to see what the transaction has done.
CREATE FUNCTION orch.ahead(r orch.runs, p_after integer, p_pure text [], p_pools text [])
RETURNS orch.claimed []
LANGUAGE plpgsql AS $$
DECLARE
    c_most CONSTANT integer := 16;
    c_small CONSTANT integer := 8192;
    v_ahead orch.claimed [];
BEGIN
    WITH RECURSIVE found AS (
        SELECT NULL::orch.dag_steps AS step, p_after AS step_no, TRUE AS leads
        UNION ALL
        SELECT n.step, (n.step).step_no, (n.step).leads
        FROM found AS f
        CROSS JOIN LATERAL (
            SELECT d AS step
            FROM orch.dag_edges AS e, orch.dag_steps AS d
            WHERE
                e.tenant = r.tenant AND e.dag_version_id = r.dag_version_id AND e.from_no = f.step_no
                AND d.tenant = r.tenant AND d.dag_version_id = r.dag_version_id AND d.step_no = e.to_no
                AND d.only_no = f.step_no AND d.uses = ANY(p_pure) AND d.pool = ANY(p_pools)
                AND pg_column_size(d.params) < c_small
                AND CASE
                    WHEN d.reads_inputs THEN c_small > (
                        SELECT pg_column_size(i.inputs) FROM orch.run_inputs AS i
                        WHERE i.tenant = r.tenant AND i.run_id = r.run_id
                    )
                    ELSE TRUE
                END
                AND CASE
                    WHEN cardinality(d.refs) > 0 THEN c_small > (
                        SELECT coalesce(sum(pg_column_size(s.outputs)), 0)
                        FROM unnest(d.refs) AS ref (step_no)
                        CROSS JOIN LATERAL (
                            SELECT q.outputs FROM orch.steps AS q
                            WHERE q.tenant = r.tenant AND q.run_id = r.run_id AND q.step_no = ref.step_no
                            OFFSET 0
                        ) AS s
                    )
                    ELSE TRUE
                END
            ORDER BY e.to_no
            OFFSET 0
        ) AS n
        WHERE f.leads
    )
    SELECT array_agg(
        (
            (l.step).step_no, (l.step).step_id, 1, 1, r.dag_id, r.dag_version, r.trace_id,
            (l.step).uses, (l.step).params, (l.step).when_expr, (l.step).max_attempts,
            (l.step).initial_delay_ms, (l.step).max_delay_ms, (l.step).multiplier,
            (l.step).timeout_ms, (l.step).pool,
            CASE
                WHEN (l.step).reads_inputs THEN (
                    SELECT i.inputs FROM orch.run_inputs AS i WHERE i.tenant = r.tenant AND i.run_id = r.run_id
                )
            END,
            CASE WHEN cardinality((l.step).refs) > 0 THEN orch.ancestors(r, (l.step).refs) END,
            (l.step).leads
        )::orch.claimed
    )
    INTO v_ahead
    FROM (SELECT f.step FROM found AS f WHERE f.step_no <> p_after LIMIT c_most) AS l;
    RETURN v_ahead;
END;
$$;

-- Take note of steps that were run ahead after p_after, which has succeeded in this transaction: p_ran
-- (step_no, outputs, outputs_hash, inputs_hash of each). All of them succeeded, at their first attempts. What
-- they went through comes back. The caller holds the run's lock, and the run goes on.
CREATE FUNCTION orch.run_ahead(r orch.runs, p_after integer, p_ran json, p_worker text)
RETURNS orch.step_change []
LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := orch.utc_ms();
    v_changes orch.step_change [];
BEGIN
    -- A step that is pending is nobody else's, so its row stays where it is found.
    WITH ran AS MATERIALIZED (
        SELECT t.* FROM json_to_recordset(p_ran) AS t (
            step_no integer, outputs json, outputs_hash text, inputs_hash text
        )
    ),
    found AS MATERIALIZED (
        SELECT q.*, f.row, f.pool, f.step_id
        FROM ran AS q
        CROSS JOIN LATERAL (
            SELECT s.ctid AS row, s.pool, d.step_id, d.only_no
            FROM orch.steps AS s, orch.dag_steps AS d
            WHERE
                s.tenant = r.tenant AND s.run_id = r.run_id AND s.step_no = q.step_no AND s.status = 'pending'
                AND d.tenant = r.tenant AND d.dag_version_id = r.dag_version_id AND d.step_no = q.step_no
            OFFSET 0
        ) AS f
        WHERE f.only_no = p_after OR f.only_no IN (SELECT o.step_no FROM ran AS o)
    ),
    changed AS (
        UPDATE orch.steps AS s
        SET
            status = 'succeeded', attempt = 1, waiting = 0, queued_utc = v_now, started_utc = v_now,
            ended_utc = v_now, inputs_hash = decode(f.inputs_hash, 'hex'),
            outputs = f.outputs, outputs_hash = decode(f.outputs_hash, 'hex')
        FROM found AS f
        WHERE s.ctid = f.row
    ),
    begun AS (
        INSERT INTO orch.attempts (
            tenant, run_id, step_no, attempt, status, worker_id, started_utc, ended_utc, outputs_hash
        )
        SELECT r.tenant, r.run_id, f.step_no, 1, 'succeeded', p_worker, v_now, v_now, decode(f.outputs_hash, 'hex')
        FROM found AS f
    )
    SELECT array_agg(
        (f.step_no, f.step_id, w.status, w.attempt, f.pool)::orch.step_change ORDER BY f.step_no, w.place
    )
    INTO v_changes
    FROM found AS f
    CROSS JOIN (VALUES (1, 'queued', 0), (2, 'running', 1), (3, 'succeeded', 1)) AS w (place, status, attempt);
    IF coalesce(cardinality(v_changes), 0) < 3 * json_array_length(p_ran) THEN
        RAISE EXCEPTION 'steps of run % were run ahead that are not certain after step_no %', r.run_id, p_after;
    END IF;
    RETURN v_changes;
END;
$$;

-- As in 0018, and an ending may have steps with it that were run ahead (ahead). They are dropped where the
-- ending is, and where the run is being cancelled.
CREATE OR REPLACE FUNCTION orch.settle(
    p_tenant text, p_run uuid, p_claims integer [], p_ended json, p_pools text [],
    p_sure integer, p_late integer, p_free integer, p_share double precision,
    p_worker text, p_lease_ms integer, p_wait boolean
) RETURNS SETOF orch.settled
LANGUAGE plpgsql AS $$
DECLARE
    r orch.runs;
    e record;
    v_now timestamptz;
    v_status text;
    v_step orch.step_change;
    v_key text;
    v_goes_on boolean;
    v_claims integer [] := p_claims;
    v_sure integer := p_sure;
    v_changes orch.step_change [] := '{}';
    v_settled integer [] := '{}';
    v_ended integer [] := '{}';
    v_failed integer [] := '{}';
    v_ready text [] := '{}';
    v_keys text [] := '{}';
    v_ahead orch.step_change [];
    v_nos integer [];
    v_given_back integer := 0;
    v_progress orch.progress;
    v_result orch.settled;
BEGIN
    IF p_wait THEN
        SELECT * INTO r FROM orch.runs WHERE tenant = p_tenant AND run_id = p_run FOR UPDATE;
    ELSE
        SELECT * INTO r FROM orch.runs WHERE tenant = p_tenant AND run_id = p_run FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    v_now := orch.utc_ms();
    v_goes_on := coalesce(r.status = 'running' AND r.cancel_requested_utc IS NULL, FALSE);
    FOR e IN
        SELECT t.* FROM json_to_recordset(p_ended) AS t (
            step_no integer, attempt integer, ending text, outputs json, outputs_hash text, inputs_hash text,
            error_code text, error_message text, delay_ms bigint, logs_ref text, artifacts json, ahead json
        )
    LOOP
        v_status := CASE
            WHEN e.ending NOT IN ('retrying', 'released') THEN e.ending
            WHEN r.cancel_requested_utc IS NOT NULL THEN 'cancelled'
            WHEN e.ending = 'released' THEN 'queued'
            ELSE 'retrying'
        END;
        UPDATE orch.steps AS s
        SET
            status = v_status, lease_until = NULL, worker_id = NULL,
            sent_utc = CASE WHEN v_status = 'queued' THEN orch.unsent(s.concurrency_key) END,
            released = s.released + (e.ending = 'released')::integer,
            queued_utc = CASE
                WHEN v_status = 'queued' THEN orch.first_in_line(s.tenant, s.pool, s.concurrency_key)
                ELSE s.queued_utc
            END,
            due_utc = CASE
                WHEN v_status = 'retrying' THEN clock_timestamp() + make_interval(secs => e.delay_ms / 1000.0)
            END,
            ended_utc = CASE WHEN v_status IN ('succeeded', 'failed', 'cancelled') THEN v_now END,
            error_code = CASE WHEN v_status = 'cancelled' THEN 'CANCELLED' ELSE e.error_code END,
            error_message = e.error_message,
            inputs_hash = coalesce(decode(e.inputs_hash, 'hex'), s.inputs_hash),
            outputs = e.outputs, outputs_hash = decode(e.outputs_hash, 'hex')
        FROM orch.dag_steps AS d
        WHERE
            s.tenant = p_tenant AND s.run_id = p_run AND s.step_no = e.step_no
            AND s.status = 'running' AND s.attempt = e.attempt
            AND d.tenant = p_tenant AND d.dag_version_id = r.dag_version_id AND d.step_no = e.step_no
        RETURNING
            s.step_no, d.step_id, s.status, s.attempt,
            CASE WHEN s.sent_utc = 'infinity' THEN NULL ELSE s.pool END, s.concurrency_key
        INTO v_step.step_no, v_step.step_id, v_step.status, v_step.attempt, v_step.pool, v_key;
        CONTINUE WHEN NOT FOUND;
        UPDATE orch.attempts
        SET
            status = CASE e.ending WHEN 'retrying' THEN 'failed' ELSE e.ending END,
            ended_utc = v_now, error_code = e.error_code, error_message = e.error_message,
            logs_ref = decode(e.logs_ref, 'hex'), outputs_hash = decode(e.outputs_hash, 'hex')
        WHERE tenant = p_tenant AND run_id = p_run AND step_no = e.step_no AND attempt = e.attempt;
        IF e.artifacts IS NOT NULL THEN
            PERFORM orch.own_artifacts(p_tenant, p_run, e.step_no, e.attempt, e.artifacts);
        END IF;
        v_changes := array_append(v_changes, v_step);
        v_settled := v_settled || ARRAY[[e.step_no, e.attempt]];
        IF v_status = 'succeeded' AND v_goes_on AND e.ahead IS NOT NULL THEN
            v_ahead := orch.run_ahead(r, e.step_no, e.ahead, p_worker);
            v_changes := v_changes || v_ahead;
            v_nos := ARRAY(SELECT e.step_no UNION SELECT a.step_no FROM unnest(v_ahead) AS a);
            -- Those that have other successors than these.
            v_ended := v_ended || ARRAY(
                SELECT DISTINCT o.from_no FROM orch.dag_edges AS o
                WHERE o.tenant = p_tenant AND o.dag_version_id = r.dag_version_id
                    AND o.from_no = ANY(v_nos) AND o.to_no <> ALL(v_nos)
            );
        ELSIF v_status IN ('succeeded', 'failed', 'cancelled') THEN
            v_ended := array_append(v_ended, e.step_no);
            IF v_status = 'failed' THEN
                v_failed := array_append(v_failed, e.step_no);
            END IF;
        ELSIF v_status = 'queued' THEN
            v_given_back := v_given_back + 1;
            v_ready := array_remove(array_append(v_ready, v_step.pool), NULL);
        END IF;
        IF v_key IS NOT NULL THEN
            v_keys := array_append(v_keys, v_key);
        END IF;
    END LOOP;
    IF NOT v_goes_on THEN
        v_claims := '{}';
    ELSIF cardinality(p_claims) > 0 AND orch.is_limited(p_tenant) THEN
        -- They need the mark of having been sent, and so counted.
        v_claims := ARRAY(
            SELECT s.step_no FROM orch.steps AS s
            WHERE s.tenant = p_tenant AND s.run_id = p_run AND s.step_no = ANY(p_claims)
                AND s.sent_utc < 'infinity'
        );
    END IF;
    -- A limit that has been lowered takes effect when a slice is over.
    v_result.late := p_late > 0 AND NOT orch.is_limited(p_tenant) AND NOT orch.is_awaited(p_pools, p_run);
    IF v_result.late THEN
        v_sure := v_sure + p_late;
    END IF;
    v_progress := orch.proceed(
        r, NULL, v_changes, v_ended, v_failed, v_claims, '{}', CASE WHEN v_goes_on THEN p_pools ELSE '{}' END,
        -- Whoever gives a step back takes no other.
        least(v_sure, cardinality(v_settled) / 2 - v_given_back), CASE WHEN v_sure > 0 THEN p_free ELSE 0 END,
        p_share, p_worker, p_lease_ms
    );
    v_result.settled := v_settled;
    v_result.ready_pools := v_progress.ready_pools || v_ready;
    v_result.undecided := v_progress.undecided;
    v_result.run_status := v_progress.run_status;
    v_result.keys := v_progress.keys || v_keys;
    v_result.drained := v_progress.drained;
    FOREACH v_result.claimed IN ARRAY v_progress.claims LOOP
        RETURN NEXT v_result;
    END LOOP;
    IF v_result.claimed IS NULL THEN
        RETURN NEXT v_result;
    END IF;
END;
$$;

-- As in 0018, and for each step that was taken at its first attempt the ones that may be run ahead (ahead),
-- of the plugins that are pure.
CREATE OR REPLACE FUNCTION orch.settle_runs(
    p_tenant text, p_told json, p_share double precision, p_worker text, p_lease_ms integer
) RETURNS TABLE (place integer, told json)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    SELECT t.place, row_to_json(q)
    FROM json_to_recordset(p_told) AS t (
        place integer, run_id uuid, claims integer [], ended json, pools text [], pure text [],
        sure integer, late integer, free integer
    )
    CROSS JOIN LATERAL orch.settle(
        p_tenant, t.run_id, t.claims, t.ended, t.pools, t.sure, t.late, t.free, p_share, p_worker, p_lease_ms,
        json_array_length(p_told) = 1
    ) AS s
    CROSS JOIN LATERAL (
        SELECT
            s.*,
            CASE
                WHEN (s.claimed).leads AND cardinality(t.pure) > 0 THEN (
                    SELECT orch.ahead(r, (s.claimed).step_no, t.pure, t.pools) FROM orch.runs AS r
                    WHERE r.tenant = p_tenant AND r.run_id = t.run_id
                )
            END AS ahead
    ) AS q;
END;
$$;
