-- How a transition goes on: steps are taken for an attempt, and what ended is told to its successors.

-- Take a step that is ready for one attempt: it is queued, or pending and just being unlocked. The caller
-- holds the run's lock. NULLs: it was in another state.
CREATE FUNCTION orch.take(
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
        WHERE s.tenant = r.tenant AND s.run_id = r.run_id AND s.step_no = p_step AND s.status = p_from
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

-- Take another ready step of the same run, that no message is out for, if one is among the tenant's oldest:
-- so a wide run costs one commit a step, not two and a message. NULLs: there is none.
CREATE FUNCTION orch.take_another(
    r orch.runs, p_pool text, p_worker text, p_lease_ms integer
) RETURNS orch.claimed
LANGUAGE plpgsql AS $$
DECLARE
    v_step integer;
BEGIN
    SELECT o.step_no INTO v_step
    FROM (
        SELECT s.run_id, s.step_no FROM orch.steps AS s
        WHERE s.tenant = r.tenant AND s.pool = p_pool AND s.status = 'queued' AND s.sent_utc IS NULL
        ORDER BY s.queued_utc, s.run_id, s.step_no LIMIT 32
    ) AS o
    WHERE o.run_id = r.run_id
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    RETURN orch.take(r, v_step, 'queued', p_worker, p_lease_ms);
END;
$$;

-- Put a claimed step beside what else a transition did.
CREATE FUNCTION orch.handed_over(p_change orch.change, p_next orch.claimed) RETURNS orch.change
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    p_change.step_no := p_next.step_no;
    p_change.step_id := p_next.step_id;
    p_change.attempt := p_next.attempt;
    p_change.tries := p_next.tries;
    p_change.dag_id := p_next.dag_id;
    p_change.dag_version := p_next.dag_version;
    p_change.trace_id := p_next.trace_id;
    p_change.uses := p_next.uses;
    p_change.params := p_next.params;
    p_change.when_expr := p_next.when_expr;
    p_change.max_attempts := p_next.max_attempts;
    p_change.initial_delay_ms := p_next.initial_delay_ms;
    p_change.max_delay_ms := p_next.max_delay_ms;
    p_change.multiplier := p_next.multiplier;
    p_change.timeout_ms := p_next.timeout_ms;
    p_change.pool := p_next.pool;
    p_change.inputs := p_next.inputs;
    p_change.ancestors := p_next.ancestors;
    RETURN p_change;
END;
$$;

-- Finish a transition that made p_changes: tell the successors of what ended, wave by wave. Count down what
-- they wait for, unlock or skip those that wait for nothing more, and go on with the skipped ones. The
-- first unlocked step of p_handoff_pools is taken by p_worker at once, or another step of the run that is
-- ready. Then record all of it, after p_first.
-- The caller holds the run's lock; p_failed are those of the ended steps that count as failed.
CREATE FUNCTION orch.advance(
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
    v_undecided boolean := FALSE;
    v_next orch.claimed;
    v_result orch.change;
BEGIN
    FOREACH c IN ARRAY p_changes LOOP
        IF c.status = 'queued' THEN
            IF v_next.step_no IS NULL AND c.pool = ANY(p_handoff_pools) THEN
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
                d.step_id, s.pool, s.attempt, s.waiting - v_hit.n AS waiting,
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
            IF v_step.verdict = 'unlock' AND v_next.step_no IS NULL AND v_step.pool = ANY(p_handoff_pools) THEN
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
                IF NOT v_step.pool = ANY(v_ready) THEN
                    v_ready := array_append(v_ready, v_step.pool);
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
    v_result.undecided := v_undecided;
    v_result.run_status := orch.record(r, p_first, p_changes);
    RETURN v_result;
END;
$$;
