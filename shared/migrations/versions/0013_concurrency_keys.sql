-- Keys that bound how many steps run at a time.
--
-- A step with a concurrency key waits for a place before it is ready. Until it has one, its sent_utc is
-- 'infinity': no message is out, and none is to be sent. So it is in the way of nothing that looks for
-- ready steps or for lost messages, however many wait. What holds a place is a row as well: a step that
-- is queued with a place, or runs. There is no count of places that could leak.

ALTER TABLE orch.dag_steps ADD COLUMN concurrency_key text COLLATE "C";
ALTER TABLE orch.dag_steps ADD COLUMN concurrency_limit integer;
ALTER TABLE orch.steps ADD COLUMN concurrency_key text COLLATE "C";

-- Who waits for a place, in line.
CREATE INDEX steps_waiting ON orch.steps (tenant, concurrency_key, queued_utc, run_id, step_no)
WHERE status = 'queued' AND sent_utc = 'infinity' AND concurrency_key IS NOT NULL;
-- Who holds one.
CREATE INDEX steps_placed ON orch.steps (tenant, concurrency_key)
WHERE
    concurrency_key IS NOT NULL
    AND (lease_until IS NOT NULL OR (status = 'queued' AND sent_utc IS DISTINCT FROM 'infinity'));

-- The keys whose lines may have moved: a place was left, or somebody joined.
ALTER TYPE orch.change ADD ATTRIBUTE keys text [];

-- The sent_utc of a step that has just been queued.
CREATE FUNCTION orch.unsent(key text) RETURNS timestamptz
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN key IS NOT NULL THEN 'infinity'::timestamptz END;

-- How many steps with the key of a step may have places, as its own version says.
CREATE FUNCTION orch.places(p_tenant text, p_run uuid, p_step integer) RETURNS integer
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT d.concurrency_limit FROM orch.runs AS r, orch.dag_steps AS d
        WHERE
            r.tenant = p_tenant AND r.run_id = p_run
            AND d.tenant = p_tenant AND d.dag_version_id = r.dag_version_id AND d.step_no = p_step
    );
END;
$$;

-- Give the places of a key that are free to those who have waited for longest. Returns the pools that have
-- ready steps now. A waiting step counts the places by the limit of its own version; one that must wait is
-- not overtaken.
CREATE FUNCTION orch.admit(p_tenant text, p_key text) RETURNS TABLE (pool text)
LANGUAGE plpgsql AS $$
DECLARE
    c_most CONSTANT integer := 1000;
    v_held integer;
    v_most integer;
    v_given integer := 0;
    v_before integer;
    v_waiting record;
    v_pools text [] := '{}';
BEGIN
    -- A crash may forget these places: the steps then wait for them again.
    PERFORM set_config('synchronous_commit', 'off', TRUE);
    -- One at a time gives places of a key, so that what it counts can only shrink behind its back.
    PERFORM pg_advisory_xact_lock(hashtext('orch.key'), hashtext(p_tenant || ' ' || p_key));
    SELECT count(*) INTO v_held FROM orch.steps AS s
    WHERE
        s.tenant = p_tenant AND s.concurrency_key = p_key AND s.concurrency_key IS NOT NULL
        AND (s.lease_until IS NOT NULL OR (s.status = 'queued' AND s.sent_utc IS DISTINCT FROM 'infinity'));
    LOOP
        -- By the first in line: so that none is looked at in vain, however many wait.
        SELECT orch.places(p_tenant, s.run_id, s.step_no) INTO v_most FROM orch.steps AS s
        WHERE
            s.tenant = p_tenant AND s.concurrency_key = p_key
            AND s.status = 'queued' AND s.sent_utc = 'infinity' AND s.concurrency_key IS NOT NULL
        ORDER BY s.queued_utc, s.run_id, s.step_no LIMIT 1;
        EXIT WHEN NOT FOUND OR v_most <= v_held OR v_given >= c_most;
        v_before := v_given;
        FOR v_waiting IN
            SELECT s.run_id, s.step_no, s.pool FROM orch.steps AS s
            WHERE
                s.tenant = p_tenant AND s.concurrency_key = p_key
                AND s.status = 'queued' AND s.sent_utc = 'infinity' AND s.concurrency_key IS NOT NULL
            ORDER BY s.queued_utc, s.run_id, s.step_no
            LIMIT least(v_most - v_held, c_most)
            FOR UPDATE SKIP LOCKED
        LOOP
            EXIT WHEN v_held >= orch.places(p_tenant, v_waiting.run_id, v_waiting.step_no);
            UPDATE orch.steps AS s SET sent_utc = NULL
            WHERE s.tenant = p_tenant AND s.run_id = v_waiting.run_id AND s.step_no = v_waiting.step_no;
            v_held := v_held + 1;
            v_given := v_given + 1;
            IF NOT v_waiting.pool = ANY(v_pools) THEN
                v_pools := array_append(v_pools, v_waiting.pool);
            END IF;
        END LOOP;
        -- All of them are locked: by a cancellation, say.
        EXIT WHEN v_given = v_before;
    END LOOP;
    RETURN QUERY SELECT unnest(v_pools);
END;
$$;

-- As in 0003, and a step that waits for a place is ready in no pool yet.
CREATE OR REPLACE FUNCTION orch.changes_of(r orch.runs, p_steps integer []) RETURNS orch.step_change []
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT coalesce(
        array_agg(
            (c.step_no, c.step_id, c.status, c.attempt, c.pool)::orch.step_change ORDER BY c.step_no
        ), '{}'
    )
    FROM unnest(p_steps) AS n (step_no)
    CROSS JOIN LATERAL (
        SELECT
            s.step_no, d.step_id, s.status, s.attempt,
            CASE WHEN s.sent_utc = 'infinity' THEN NULL ELSE s.pool END AS pool
        FROM orch.steps AS s, orch.dag_steps AS d
        WHERE
            s.tenant = (r).tenant AND s.run_id = (r).run_id AND s.step_no = n.step_no
            AND d.tenant = (r).tenant AND d.dag_version_id = (r).dag_version_id AND d.step_no = n.step_no
        OFFSET 0
    ) AS c;
END;

-- As in 0004, and a step that waits for a place is not taken, whatever message asks for it.
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
        CASE WHEN cardinality(d.refs) > 0 THEN orch.ancestors(r, d.refs) END
    INTO v_claimed
    FROM taken AS t
    INNER JOIN orch.dag_steps AS d
        ON d.tenant = r.tenant AND d.dag_version_id = r.dag_version_id AND d.step_no = p_step;
    RETURN v_claimed;
END;
$$;

-- As in 0004, and a step with a key is never taken just when it is unlocked: it waits for its place, behind
-- those that have waited for longer. A change to queued without a pool tells of such a one.
CREATE OR REPLACE FUNCTION orch.advance(
    r orch.runs, p_first text, p_changes orch.step_change [], p_failed integer [],
    p_handoff_pools text [], p_worker text, p_lease_ms integer
) RETURNS orch.change
LANGUAGE plpgsql AS $$
DECLARE
    c orch.step_change;
    v_now timestamptz := orch.utc_ms();
    v_ended integer [] := '{}';
    v_skipped integer [];
    v_failed integer [] := p_failed;
    v_wave_failed integer [];
    v_hit record;
    v_step record;
    v_status text;
    v_ready text [] := '{}';
    v_keys text [] := '{}';
    v_undecided boolean := FALSE;
    v_next orch.claimed;
    v_result orch.change;
BEGIN
    FOREACH c IN ARRAY p_changes LOOP
        IF c.status = 'queued' THEN
            IF c.pool IS NULL THEN
                CONTINUE;
            ELSIF v_next.step_no IS NULL AND c.pool = ANY(p_handoff_pools) THEN
                v_next := orch.take(r, c.step_no, 'queued', p_worker, p_lease_ms);
            ELSIF NOT c.pool = ANY(v_ready) THEN
                v_ready := array_append(v_ready, c.pool);
            END IF;
        ELSIF c.status IN ('succeeded', 'failed', 'skipped', 'cancelled') THEN
            v_ended := array_append(v_ended, c.step_no);
        END IF;
    END LOOP;
    WHILE cardinality(v_ended) > 0 LOOP
        v_skipped := '{}';
        v_wave_failed := '{}';
        FOR v_hit IN
            SELECT e.to_no, count(*)::integer AS n, bool_or(e.from_no = ANY(v_failed)) AS failed
            FROM orch.dag_edges AS e
            WHERE e.tenant = r.tenant AND e.dag_version_id = r.dag_version_id AND e.from_no = ANY(v_ended)
            GROUP BY e.to_no ORDER BY e.to_no
        LOOP
            SELECT
                d.step_id, s.pool, s.attempt, s.waiting - v_hit.n AS waiting, d.concurrency_key,
                s.upstream_failed OR v_hit.failed AS upstream_failed,
                orch.verdict(
                    s.waiting - v_hit.n, s.upstream_failed OR v_hit.failed, d.run_on, d.disabled, d.when_expr
                ) AS verdict
            INTO v_step
            FROM orch.steps AS s, orch.dag_steps AS d
            WHERE
                s.tenant = r.tenant AND s.run_id = r.run_id AND s.step_no = v_hit.to_no AND s.status = 'pending'
                AND d.tenant = r.tenant AND d.dag_version_id = r.dag_version_id AND d.step_no = v_hit.to_no;
            CONTINUE WHEN NOT FOUND;
            IF
                v_step.verdict = 'unlock' AND v_step.concurrency_key IS NULL
                AND v_next.step_no IS NULL AND v_step.pool = ANY(p_handoff_pools)
            THEN
                v_next := orch.take(r, v_hit.to_no, 'pending', p_worker, p_lease_ms);
                p_changes := array_append(
                    p_changes,
                    (v_hit.to_no, v_step.step_id, 'queued', v_step.attempt, v_step.pool)::orch.step_change
                );
                CONTINUE;
            END IF;
            v_status := orch.verdict_status(v_step.verdict);
            UPDATE orch.steps AS s
            SET
                waiting = v_step.waiting,
                upstream_failed = v_step.upstream_failed,
                status = v_status,
                error_code = orch.verdict_error(v_step.verdict),
                undecided_utc = CASE WHEN v_step.verdict = 'ask' THEN v_now END,
                queued_utc = CASE WHEN v_status = 'queued' THEN v_now END,
                sent_utc = CASE WHEN v_status = 'queued' THEN orch.unsent(v_step.concurrency_key) END,
                ended_utc = CASE WHEN v_status = 'skipped' THEN v_now END,
                outputs_hash = CASE WHEN v_status = 'skipped' THEN orch.empty_outputs_hash() END
            WHERE s.tenant = r.tenant AND s.run_id = r.run_id AND s.step_no = v_hit.to_no;
            IF v_status = 'pending' THEN
                v_undecided := v_undecided OR v_step.verdict = 'ask';
                CONTINUE;
            END IF;
            p_changes := array_append(
                p_changes, (v_hit.to_no, v_step.step_id, v_status, v_step.attempt, v_step.pool)::orch.step_change
            );
            IF v_status = 'queued' THEN
                IF v_step.concurrency_key IS NULL THEN
                    IF NOT v_step.pool = ANY(v_ready) THEN
                        v_ready := array_append(v_ready, v_step.pool);
                    END IF;
                ELSIF NOT v_step.concurrency_key = ANY(v_keys) THEN
                    v_keys := array_append(v_keys, v_step.concurrency_key);
                END IF;
            ELSE
                v_skipped := array_append(v_skipped, v_hit.to_no);
                IF v_step.verdict = 'UPSTREAM_FAILED' THEN
                    v_wave_failed := array_append(v_wave_failed, v_hit.to_no);
                END IF;
            END IF;
        END LOOP;
        v_ended := v_skipped;
        v_failed := v_wave_failed;
    END LOOP;
    IF v_next.step_no IS NULL AND (p_changes[1]).pool = ANY(p_handoff_pools) THEN
        v_next := orch.take_another(r, (p_changes[1]).pool, p_worker, p_lease_ms);
    END IF;
    IF v_next.step_no IS NOT NULL THEN
        p_changes := array_append(
            p_changes, (v_next.step_no, v_next.step_id, 'running', v_next.attempt, v_next.pool)::orch.step_change
        );
        v_result := orch.handed_over(v_result, v_next);
    END IF;
    v_result.accepted := TRUE;
    v_result.ready_pools := v_ready;
    v_result.keys := v_keys;
    v_result.undecided := v_undecided;
    v_result.run_status := orch.record(r, p_first, p_changes);
    RETURN v_result;
END;
$$;

-- As in 0005, and the steps that begin with a key wait for their places.
CREATE OR REPLACE FUNCTION orch.start_run(
    p_tenant text, p_run uuid, p_dag_version_id bigint, p_inputs json, p_inputs_hash bytea,
    p_token text, p_trace text, p_by text
) RETURNS orch.change
LANGUAGE plpgsql AS $$
DECLARE
    r orch.runs;
    v_now timestamptz := orch.utc_ms();
    v_roots orch.step_change [];
    v_undecided boolean;
    v_keys text [];
    v_result orch.change;
BEGIN
    INSERT INTO orch.runs (
        tenant, run_id, dag_version_id, dag_id, dag_version, status, trace_id, run_token,
        inputs_hash, created_by, started_utc, step_count, open_steps
    )
    SELECT
        p_tenant, p_run, v.dag_version_id, v.dag_id, v.version, 'running', p_trace, p_token,
        p_inputs_hash, p_by, v_now, v.step_count, v.step_count
    FROM orch.dag_versions AS v
    WHERE v.tenant = p_tenant AND v.dag_version_id = p_dag_version_id
    ON CONFLICT (tenant, run_token) WHERE run_token IS NOT NULL DO NOTHING
    RETURNING * INTO r;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    INSERT INTO orch.run_inputs (tenant, run_id, inputs) VALUES (p_tenant, p_run, p_inputs);
    WITH judged AS (
        SELECT d.*, orch.verdict(d.predecessors, FALSE, d.run_on, d.disabled, d.when_expr) AS verdict
        FROM orch.dag_steps AS d
        WHERE d.tenant = p_tenant AND d.dag_version_id = p_dag_version_id
    ),
    created AS (
        INSERT INTO orch.steps (
            tenant, run_id, step_no, pool, waiting, status, error_code,
            undecided_utc, queued_utc, ended_utc, outputs_hash, concurrency_key, sent_utc
        )
        SELECT
            p_tenant, p_run, j.step_no, j.pool, j.predecessors,
            orch.verdict_status(j.verdict), orch.verdict_error(j.verdict),
            CASE WHEN j.verdict = 'ask' THEN v_now END,
            CASE WHEN j.verdict = 'unlock' THEN v_now END,
            CASE WHEN orch.verdict_status(j.verdict) = 'skipped' THEN v_now END,
            CASE WHEN orch.verdict_status(j.verdict) = 'skipped' THEN orch.empty_outputs_hash() END,
            j.concurrency_key, CASE WHEN j.verdict = 'unlock' THEN orch.unsent(j.concurrency_key) END
        FROM judged AS j
        ORDER BY j.step_no
    )
    SELECT
        array_agg(
            (
                j.step_no, j.step_id, orch.verdict_status(j.verdict), 0,
                CASE WHEN j.concurrency_key IS NULL THEN j.pool END
            )::orch.step_change
            ORDER BY j.step_no
        ) FILTER (WHERE j.verdict <> 'ask'),
        bool_or(j.verdict = 'ask'),
        array_agg(DISTINCT j.concurrency_key)
        FILTER (WHERE j.verdict = 'unlock' AND j.concurrency_key IS NOT NULL)
    INTO v_roots, v_undecided, v_keys
    FROM judged AS j
    WHERE j.verdict <> 'wait';

    v_result := orch.advance(r, 'run.started', coalesce(v_roots, '{}'), '{}', '{}', NULL, NULL);
    v_result.undecided := v_undecided OR v_result.undecided;
    v_result.keys := v_result.keys || v_keys;
    RETURN v_result;
END;
$$;

-- As in 0011, and to wait for a place is no mark of having been sent.
CREATE OR REPLACE FUNCTION orch.claim(
    p_tenant text, p_run uuid, p_step integer, p_worker text, p_lease_ms integer
) RETURNS orch.claimed
LANGUAGE plpgsql AS $$
DECLARE
    r orch.runs;
    c orch.claimed;
BEGIN
    SELECT * INTO r FROM orch.runs WHERE tenant = p_tenant AND run_id = p_run FOR UPDATE;
    IF NOT FOUND OR r.status <> 'running' OR r.cancel_requested_utc IS NOT NULL THEN
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT 1 FROM orch.tenant_limits AS l WHERE l.tenant = p_tenant AND l.max_running_steps IS NOT NULL)
    THEN
        PERFORM 1 FROM orch.steps AS s
        WHERE s.tenant = p_tenant AND s.run_id = p_run AND s.step_no = p_step
            AND s.sent_utc < 'infinity';
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
    END IF;
    c := orch.take(r, p_step, 'queued', p_worker, p_lease_ms);
    IF c.step_no IS NOT NULL THEN
        PERFORM orch.record(r, NULL, ARRAY[(p_step, c.step_id, 'running', c.attempt, c.pool)::orch.step_change]);
    END IF;
    RETURN c;
END;
$$;

-- A step that its worker has lost or given back had its turn already: it is the next one of its tenant, and
-- does not wait again behind all that have become ready since. This is when it must have been queued to be
-- the first that is ready in the pool. One with a concurrency key has left its place, and waits for one
-- behind those who never had it.
CREATE FUNCTION orch.first_in_line(p_tenant text, p_pool text, p_key text) RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_head timestamptz;
BEGIN
    IF p_key IS NULL THEN
        SELECT s.queued_utc INTO v_head FROM orch.steps AS s
        WHERE s.tenant = p_tenant AND s.pool = p_pool AND s.status = 'queued' AND s.sent_utc IS NULL
        ORDER BY s.queued_utc, s.run_id, s.step_no LIMIT 1;
    END IF;
    RETURN least(orch.utc_ms(), v_head - INTERVAL '1 millisecond');
END;
$$;

-- As in 0005; it tells of the key whose place the attempt held, and a step that is given back is the first in
-- line.
CREATE OR REPLACE FUNCTION orch.complete(
    p_tenant text, p_run uuid, p_step integer, p_attempt integer, p_ending text,
    p_outputs json, p_outputs_hash bytea, p_inputs_hash bytea, p_error_code text, p_error_message text,
    p_delay_ms bigint, p_logs_ref bytea, p_artifacts json,
    p_handoff_pools text [], p_worker text, p_lease_ms integer
) RETURNS orch.change
LANGUAGE plpgsql AS $$
DECLARE
    r orch.runs;
    v_now timestamptz;
    v_status text := p_ending;
    v_step orch.step_change;
    v_key text;
    v_result orch.change;
BEGIN
    SELECT * INTO r FROM orch.runs WHERE tenant = p_tenant AND run_id = p_run FOR UPDATE;
    v_now := orch.utc_ms();
    IF p_ending IN ('retrying', 'released') THEN
        v_status := CASE
            WHEN r.cancel_requested_utc IS NOT NULL THEN 'cancelled'
            WHEN p_ending = 'released' THEN 'queued'
            ELSE 'retrying'
        END;
    END IF;
    UPDATE orch.steps AS s
    SET
        status = v_status, lease_until = NULL, worker_id = NULL,
        sent_utc = CASE WHEN v_status = 'queued' THEN orch.unsent(s.concurrency_key) END,
        released = s.released + (p_ending = 'released')::integer,
        queued_utc = CASE
            WHEN v_status = 'queued' THEN orch.first_in_line(s.tenant, s.pool, s.concurrency_key)
            ELSE s.queued_utc
        END,
        due_utc = CASE
            WHEN v_status = 'retrying' THEN clock_timestamp() + make_interval(secs => p_delay_ms / 1000.0)
        END,
        ended_utc = CASE WHEN v_status IN ('succeeded', 'failed', 'cancelled') THEN v_now END,
        error_code = CASE WHEN v_status = 'cancelled' THEN 'CANCELLED' ELSE p_error_code END,
        error_message = p_error_message,
        inputs_hash = coalesce(p_inputs_hash, s.inputs_hash),
        outputs = p_outputs, outputs_hash = p_outputs_hash
    FROM orch.dag_steps AS d
    WHERE
        s.tenant = p_tenant AND s.run_id = p_run AND s.step_no = p_step
        AND s.status = 'running' AND s.attempt = p_attempt
        AND d.tenant = p_tenant AND d.dag_version_id = r.dag_version_id AND d.step_no = p_step
    RETURNING
        s.step_no, d.step_id, s.status, s.attempt,
        CASE WHEN s.sent_utc = 'infinity' THEN NULL ELSE s.pool END, s.concurrency_key
    INTO v_step.step_no, v_step.step_id, v_step.status, v_step.attempt, v_step.pool, v_key;
    IF NOT FOUND THEN
        v_result.accepted := FALSE;
        RETURN v_result;
    END IF;
    UPDATE orch.attempts
    SET
        status = CASE p_ending WHEN 'retrying' THEN 'failed' ELSE p_ending END,
        ended_utc = v_now, error_code = p_error_code, error_message = p_error_message,
        logs_ref = p_logs_ref, outputs_hash = p_outputs_hash
    WHERE tenant = p_tenant AND run_id = p_run AND step_no = p_step AND attempt = p_attempt;
    IF p_artifacts IS NOT NULL THEN
        PERFORM orch.own_artifacts(p_tenant, p_run, p_step, p_attempt, p_artifacts);
    END IF;
    v_result := orch.advance(
        r, NULL, ARRAY[v_step], CASE WHEN v_status = 'failed' THEN ARRAY[p_step] ELSE '{}' END,
        CASE WHEN r.cancel_requested_utc IS NULL AND v_status <> 'queued' THEN p_handoff_pools ELSE '{}' END,
        p_worker, p_lease_ms
    );
    v_result.keys := array_remove(array_append(v_result.keys, v_key), NULL);
    RETURN v_result;
END;
$$;

-- As in 0005, and an unlocked step with a key waits for its place.
CREATE OR REPLACE FUNCTION orch.decide(
    p_tenant text, p_run uuid, p_unlock integer [], p_skip integer [],
    p_handoff_pools text [], p_worker text, p_lease_ms integer
) RETURNS orch.change
LANGUAGE plpgsql AS $$
DECLARE
    r orch.runs;
    v_now timestamptz;
    v_decided integer [];
    v_keys text [];
    v_changes orch.step_change [];
    v_result orch.change;
BEGIN
    SELECT * INTO r FROM orch.runs WHERE tenant = p_tenant AND run_id = p_run FOR UPDATE;
    v_now := orch.utc_ms();
    WITH decided AS (
        UPDATE orch.steps AS s
        SET
            undecided_utc = NULL,
            status = CASE WHEN s.step_no = ANY(p_unlock) THEN 'queued' ELSE 'skipped' END,
            queued_utc = CASE WHEN s.step_no = ANY(p_unlock) THEN v_now END,
            sent_utc = CASE WHEN s.step_no = ANY(p_unlock) THEN orch.unsent(s.concurrency_key) END,
            ended_utc = CASE WHEN s.step_no = ANY(p_unlock) THEN NULL ELSE v_now END,
            error_code = CASE WHEN s.step_no = ANY(p_unlock) THEN NULL ELSE 'CONDITION_FALSE' END,
            outputs_hash = CASE WHEN s.step_no = ANY(p_unlock) THEN NULL ELSE orch.empty_outputs_hash() END
        WHERE
            s.tenant = p_tenant AND s.run_id = p_run AND s.step_no = ANY(p_unlock || p_skip)
            AND s.status = 'pending' AND s.undecided_utc IS NOT NULL
        RETURNING s.step_no, CASE WHEN s.sent_utc = 'infinity' THEN s.concurrency_key END AS key
    )
    SELECT array_agg(t.step_no), array_agg(DISTINCT t.key) FILTER (WHERE t.key IS NOT NULL)
    INTO v_decided, v_keys FROM decided AS t;
    IF v_decided IS NULL THEN
        v_result.accepted := FALSE;
        RETURN v_result;
    END IF;
    v_changes := orch.changes_of(r, v_decided);
    v_result := orch.advance(r, NULL, v_changes, '{}', p_handoff_pools, p_worker, p_lease_ms);
    v_result.keys := v_result.keys || v_keys;
    RETURN v_result;
END;
$$;

-- As in 0006; a run that fails is set aside, and a step with a key waits for a place again.
CREATE OR REPLACE FUNCTION orch.wake(p_limit integer) RETURNS TABLE (tenant text, pool text)
LANGUAGE plpgsql AS $$
DECLARE
    r orch.runs;
    v_due record;
    v_woken integer [];
    v_changes orch.step_change [];
    v_status text;
BEGIN
    FOR v_due IN
        SELECT d.tenant, d.run_id, array_agg(d.step_no ORDER BY d.step_no) AS step_nos
        FROM (
            SELECT s.tenant, s.run_id, s.step_no FROM orch.steps AS s
            WHERE s.due_utc <= clock_timestamp() AND NOT orch.is_aside(s.tenant, 'wake', s.run_id, -1)
            ORDER BY s.due_utc LIMIT p_limit
        ) AS d
        GROUP BY d.tenant, d.run_id ORDER BY d.tenant, d.run_id
    LOOP
        BEGIN
            SELECT * INTO r FROM orch.runs AS q
            WHERE q.tenant = v_due.tenant AND q.run_id = v_due.run_id FOR UPDATE SKIP LOCKED;
            IF NOT FOUND THEN
                PERFORM orch.must_exist(v_due.tenant, v_due.run_id);
                CONTINUE;
            END IF;
            WITH woken AS (
                UPDATE orch.steps AS s
                SET status = 'queued', due_utc = NULL, sent_utc = orch.unsent(s.concurrency_key), queued_utc = orch.utc_ms()
                WHERE
                    s.tenant = r.tenant AND s.run_id = r.run_id AND s.step_no = ANY(v_due.step_nos)
                    AND s.status = 'retrying'
                RETURNING s.step_no
            )
            SELECT array_agg(t.step_no) INTO v_woken FROM woken AS t;
            CONTINUE WHEN v_woken IS NULL;
            v_changes := orch.changes_of(r, v_woken);
            v_status := orch.record(r, NULL, v_changes);
            PERFORM orch.take_back(r.tenant, 'wake', r.run_id, -1);
            RETURN QUERY SELECT DISTINCT r.tenant::text, c.pool FROM unnest(v_changes) AS c WHERE c.pool IS NOT NULL;
        EXCEPTION
            WHEN OTHERS THEN
                IF NOT orch.is_of_row(sqlstate) THEN
                    RAISE;
                END IF;
                PERFORM orch.put_aside(v_due.tenant, 'wake', v_due.run_id, -1, sqlstate || ' ' || sqlerrm);
        END;
    END LOOP;
END;
$$;

-- As in 0006; a step that fails is set aside, one with a key waits for a place again, another is the first in
-- line.
CREATE OR REPLACE FUNCTION orch.rescue(p_limit integer, p_max_lost integer) RETURNS TABLE (
    tenant text, pool text, run_id uuid, undecided boolean
)
LANGUAGE plpgsql AS $$
DECLARE
    r orch.runs;
    v_late record;
    v_step orch.step_change;
    v_result orch.change;
    v_now timestamptz;
    v_ready text;
BEGIN
    FOR v_late IN
        SELECT s.tenant, s.run_id, s.step_no, s.attempt FROM orch.steps AS s
        WHERE
            s.lease_until < clock_timestamp() AND NOT orch.is_aside(s.tenant, 'rescue', s.run_id, s.step_no)
        ORDER BY s.lease_until LIMIT p_limit
    LOOP
        BEGIN
            SELECT * INTO r FROM orch.runs AS q
            WHERE q.tenant = v_late.tenant AND q.run_id = v_late.run_id FOR UPDATE SKIP LOCKED;
            IF NOT FOUND THEN
                PERFORM orch.must_exist(v_late.tenant, v_late.run_id);
                CONTINUE;
            END IF;
            -- A renewal may hold the row just now: then the lease did not run out after all.
            PERFORM 1 FROM orch.steps AS s
            WHERE
                s.tenant = r.tenant AND s.run_id = r.run_id AND s.step_no = v_late.step_no
                AND s.status = 'running' AND s.attempt = v_late.attempt AND s.lease_until < clock_timestamp()
            FOR UPDATE SKIP LOCKED;
            CONTINUE WHEN NOT FOUND;
            v_now := orch.utc_ms();
            UPDATE orch.attempts AS a
            SET status = 'lost', ended_utc = v_now, error_code = 'WORKER_LOST'
            WHERE
                a.tenant = r.tenant AND a.run_id = r.run_id AND a.step_no = v_late.step_no
                AND a.attempt = v_late.attempt;
            UPDATE orch.steps AS s
            SET
                lost = s.lost + 1, lease_until = NULL, worker_id = NULL,
                status = CASE
                    WHEN r.cancel_requested_utc IS NOT NULL THEN 'cancelled'
                    WHEN s.lost + 1 >= p_max_lost THEN 'failed'
                    ELSE 'queued'
                END,
                sent_utc = CASE
                    WHEN r.cancel_requested_utc IS NULL AND s.lost + 1 < p_max_lost THEN orch.unsent(s.concurrency_key)
                END,
                queued_utc = CASE
                    WHEN r.cancel_requested_utc IS NULL AND s.lost + 1 < p_max_lost
                        THEN orch.first_in_line(s.tenant, s.pool, s.concurrency_key)
                    ELSE s.queued_utc
                END,
                ended_utc = CASE WHEN r.cancel_requested_utc IS NOT NULL OR s.lost + 1 >= p_max_lost THEN v_now END,
                error_code = CASE
                    WHEN r.cancel_requested_utc IS NOT NULL THEN 'CANCELLED'
                    WHEN s.lost + 1 >= p_max_lost THEN 'WORKER_LOST'
                END,
                error_message = CASE
                    WHEN s.lost + 1 >= p_max_lost THEN s.lost + 1 || ' attempts were lost with their workers'
                END
            FROM orch.dag_steps AS d
            WHERE
                s.tenant = r.tenant AND s.run_id = r.run_id AND s.step_no = v_late.step_no
                AND d.tenant = r.tenant AND d.dag_version_id = r.dag_version_id AND d.step_no = s.step_no
            RETURNING
                s.step_no, d.step_id, s.status, s.attempt,
                CASE WHEN s.sent_utc = 'infinity' THEN NULL ELSE s.pool END
            INTO v_step;
            v_result := orch.advance(
                r, NULL, ARRAY[v_step], CASE WHEN v_step.status = 'failed' THEN ARRAY[v_step.step_no] ELSE '{}' END,
                '{}', NULL, NULL
            );
            PERFORM orch.take_back(r.tenant, 'rescue', r.run_id, v_late.step_no);
            FOREACH v_ready IN ARRAY v_result.ready_pools LOOP
                RETURN QUERY SELECT r.tenant::text, v_ready, r.run_id, FALSE;
            END LOOP;
            IF v_result.undecided THEN
                RETURN QUERY SELECT r.tenant::text, NULL::text, r.run_id, TRUE;
            END IF;
        EXCEPTION
            WHEN OTHERS THEN
                IF NOT orch.is_of_row(sqlstate) THEN
                    RAISE;
                END IF;
                PERFORM orch.put_aside(
                    v_late.tenant, 'rescue', v_late.run_id, v_late.step_no, sqlstate || ' ' || sqlerrm
                );
        END;
    END LOOP;
END;
$$;

-- As in 0009, and what waits for a place is counted where it stands in line.
CREATE OR REPLACE FUNCTION orch.queues(p_tenant text)
RETURNS TABLE (tenant text, pool text, depth bigint, oldest_utc timestamptz, running bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = orch, pg_temp AS $$
DECLARE
    c_few CONSTANT integer := 32;
    v_first text := coalesce(p_tenant, '');
    -- No tenant's name comes after a tilde.
    v_last text := coalesce(p_tenant, '~');
BEGIN
    IF
        current_setting('role') <> 'orch_service'
        AND (p_tenant = current_setting('orch.tenant', TRUE)) IS NOT TRUE
    THEN
        RAISE insufficient_privilege USING MESSAGE = 'the queues are of another tenant';
    END IF;
    RETURN QUERY
    WITH RECURSIVE found AS (
        (
            SELECT s.tenant, s.pool, s.queued_utc FROM orch.steps AS s
            WHERE s.status = 'queued' AND s.sent_utc IS NULL AND s.tenant BETWEEN v_first AND v_last
            ORDER BY s.tenant, s.pool, s.queued_utc LIMIT 1
        )
        UNION ALL
        SELECT n.tenant, n.pool, n.queued_utc FROM found AS f
        CROSS JOIN LATERAL (
            SELECT s.tenant, s.pool, s.queued_utc FROM orch.steps AS s
            WHERE
                s.status = 'queued' AND s.sent_utc IS NULL
                AND (s.tenant, s.pool) > (f.tenant, f.pool) AND s.tenant <= v_last
            ORDER BY s.tenant, s.pool, s.queued_utc LIMIT 1
        ) AS n
    ),
    few AS MATERIALIZED (SELECT f.tenant, f.pool, f.queued_utc FROM found AS f LIMIT c_few + 1),
    parts AS (
        -- What is ready. To count a queue by itself costs half of what it costs to group by its name.
        SELECT
            f.tenant, f.pool, f.queued_utc, 0 AS running,
            (
                SELECT count(*) FROM orch.steps AS s
                WHERE
                    s.tenant = f.tenant AND s.pool = f.pool AND s.status = 'queued' AND s.sent_utc IS NULL
            ) AS depth
        FROM few AS f
        WHERE (SELECT count(*) FROM few) <= c_few
        UNION ALL
        SELECT s.tenant, s.pool, min(s.queued_utc), 0, count(*) FROM orch.steps AS s
        WHERE
            s.status = 'queued' AND s.sent_utc IS NULL AND s.tenant BETWEEN v_first AND v_last
            AND (SELECT count(*) FROM few) > c_few
        GROUP BY s.tenant, s.pool
        UNION ALL
        SELECT o.tenant, o.pool, o.queued_utc, 0, 1
        FROM (
            SELECT s.tenant, s.pool, s.queued_utc FROM orch.steps AS s
            WHERE s.status = 'queued' AND s.sent_utc IS NOT NULL AND s.sent_utc < 'infinity' OFFSET 0
        ) AS o
        WHERE o.tenant BETWEEN v_first AND v_last
        UNION ALL
        SELECT s.tenant, s.pool, min(s.queued_utc), 0, count(*) FROM orch.steps AS s
        WHERE
            s.status = 'queued' AND s.sent_utc = 'infinity' AND s.concurrency_key IS NOT NULL
            AND s.tenant BETWEEN v_first AND v_last
        GROUP BY s.tenant, s.pool
        UNION ALL
        SELECT l.tenant, l.pool, NULL, 1, 0
        FROM (SELECT s.tenant, s.pool FROM orch.steps AS s WHERE s.lease_until IS NOT NULL OFFSET 0) AS l
        WHERE l.tenant BETWEEN v_first AND v_last
    )
    SELECT p.tenant::text, p.pool::text, sum(p.depth)::bigint, min(p.queued_utc), sum(p.running)::bigint
    FROM parts AS p
    GROUP BY p.tenant, p.pool;
END;
$$;

-- As in 0011, and what waits for a place is not active.
CREATE OR REPLACE FUNCTION orch.active_steps(p_tenant text) RETURNS integer
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT count(*)::integer FROM (
        SELECT 1 FROM orch.steps AS s
        WHERE s.lease_until IS NOT NULL AND (s.tenant = p_tenant) IS TRUE
        UNION ALL
        SELECT 1 FROM orch.steps AS s
        WHERE
            s.status = 'queued' AND s.sent_utc IS NOT NULL AND s.sent_utc < 'infinity'
            AND (s.tenant = p_tenant) IS TRUE
    ) AS a;
END;
