-- A step that its worker has lost or given back had its turn already: it is the next one of its tenant, and
-- does not wait again behind all that have become ready since.

-- When a step must have been queued to be the first of its tenant that is ready in the pool. One with a
-- concurrency key has left its place, and waits for one behind those who never had it.
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

-- As in 0013, and a step that is given back is the first in line.
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

-- As in 0013, and a step that is taken away is the first in line.
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
