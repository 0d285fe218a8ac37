-- The transitions: one function a verb, one transaction, one round trip.
-- Each takes the run's lock first, then its steps', is guarded by the state that it leaves
-- (and, for a running step, by its attempt), and writes its events before it returns.

-- Start a run of a version that the caller has looked up. Returns NULL when the run token is taken.
CREATE FUNCTION orch.start_run(
    p_tenant text, p_run uuid, p_dag_version_id bigint, p_inputs json, p_inputs_hash bytea,
    p_token text, p_trace text, p_by text
) RETURNS orch.change
LANGUAGE plpgsql AS $$
DECLARE
    r orch.runs;
    v_now timestamptz := orch.utc_ms();
    v_roots orch.step_change [];
    v_undecided boolean;
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
            undecided_utc, queued_utc, ended_utc, outputs_hash
        )
        SELECT
            p_tenant, p_run, j.step_no, j.pool, j.predecessors,
            orch.verdict_status(j.verdict), orch.verdict_error(j.verdict),
            CASE WHEN j.verdict = 'ask' THEN v_now END,
            CASE WHEN j.verdict = 'unlock' THEN v_now END,
            CASE WHEN orch.verdict_status(j.verdict) = 'skipped' THEN v_now END,
            CASE WHEN orch.verdict_status(j.verdict) = 'skipped' THEN orch.empty_outputs_hash() END
        FROM judged AS j
        ORDER BY j.step_no
    )
    SELECT
        array_agg(
            (j.step_no, j.step_id, orch.verdict_status(j.verdict), 0, j.pool)::orch.step_change
            ORDER BY j.step_no
        ) FILTER (WHERE j.verdict <> 'ask'),
        bool_or(j.verdict = 'ask')
    INTO v_roots, v_undecided
    FROM judged AS j
    WHERE j.verdict <> 'wait';

    v_result := orch.advance(r, 'run.started', coalesce(v_roots, '{}'), '{}', '{}', NULL, NULL);
    v_result.undecided := v_undecided OR v_result.undecided;
    RETURN v_result;
END;
$$;

-- Take a queued step for one attempt, unless a cancellation of its run was requested.
CREATE FUNCTION orch.claim(
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
    c := orch.take(r, p_step, 'queued', p_worker, p_lease_ms);
    IF c.step_no IS NOT NULL THEN
        PERFORM orch.record(r, NULL, ARRAY[(p_step, c.step_id, 'running', c.attempt, c.pool)::orch.step_change]);
    END IF;
    RETURN c;
END;
$$;

-- Take note of how an attempt ended: succeed, fail, retry_later, cancel or release, by p_ending =
-- 'succeeded', 'failed', 'retrying', 'cancelled' or 'released'. Only the attempt that holds the step may.
-- In a run that is being cancelled no step waits: retrying and released become cancelled.
CREATE FUNCTION orch.complete(
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
        released = s.released + (p_ending = 'released')::integer,
        queued_utc = CASE WHEN v_status = 'queued' THEN v_now ELSE s.queued_utc END,
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
    RETURNING s.step_no, d.step_id, s.status, s.attempt, s.pool INTO v_step;
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
    RETURN orch.advance(
        r, NULL, ARRAY[v_step], CASE WHEN v_status = 'failed' THEN ARRAY[p_step] ELSE '{}' END,
        CASE WHEN r.cancel_requested_utc IS NULL AND v_status <> 'queued' THEN p_handoff_pools ELSE '{}' END,
        p_worker, p_lease_ms
    );
END;
$$;

-- Note which bytes an attempt wrote: the tenant owns them from now on.
CREATE FUNCTION orch.own_artifacts(
    p_tenant text, p_run uuid, p_step integer, p_attempt integer, p_artifacts json
) RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    INSERT INTO orch.artifacts (tenant, sha256, size_bytes, content_type)
    SELECT DISTINCT ON (a.sha256) p_tenant, decode(a.sha256, 'hex'), a.size_bytes, a.content_type
    FROM json_to_recordset(p_artifacts) AS a (name text, sha256 text, size_bytes bigint, content_type text)
    ON CONFLICT (tenant, sha256) DO NOTHING;
    INSERT INTO orch.artifact_refs (tenant, run_id, step_no, attempt, name, sha256)
    SELECT p_tenant, p_run, p_step, p_attempt, a.name, decode(a.sha256, 'hex')
    FROM json_to_recordset(p_artifacts) AS a (name text, sha256 text, size_bytes bigint, content_type text);
END;

-- Decide steps whose predecessors have ended, by what their when said: p_unlock run, p_skip do not.
CREATE FUNCTION orch.decide(
    p_tenant text, p_run uuid, p_unlock integer [], p_skip integer [],
    p_handoff_pools text [], p_worker text, p_lease_ms integer
) RETURNS orch.change
LANGUAGE plpgsql AS $$
DECLARE
    r orch.runs;
    v_now timestamptz;
    v_decided integer [];
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
            ended_utc = CASE WHEN s.step_no = ANY(p_unlock) THEN NULL ELSE v_now END,
            error_code = CASE WHEN s.step_no = ANY(p_unlock) THEN NULL ELSE 'CONDITION_FALSE' END,
            outputs_hash = CASE WHEN s.step_no = ANY(p_unlock) THEN NULL ELSE orch.empty_outputs_hash() END
        WHERE
            s.tenant = p_tenant AND s.run_id = p_run AND s.step_no = ANY(p_unlock || p_skip)
            AND s.status = 'pending' AND s.undecided_utc IS NOT NULL
        RETURNING s.step_no
    )
    SELECT array_agg(t.step_no) INTO v_decided FROM decided AS t;
    IF v_decided IS NULL THEN
        v_result.accepted := FALSE;
        RETURN v_result;
    END IF;
    v_changes := orch.changes_of(r, v_decided);
    RETURN orch.advance(r, NULL, v_changes, '{}', p_handoff_pools, p_worker, p_lease_ms);
END;
$$;

-- Request the cancellation of a run and cancel what has not begun. Returns the run's status;
-- NULL: no such run. The steps that run are told to stop when their worker renews its leases.
CREATE FUNCTION orch.cancel_run(p_tenant text, p_run uuid, p_reason text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    r orch.runs;
    v_now timestamptz;
    v_cancelled integer [];
BEGIN
    SELECT * INTO r FROM orch.runs WHERE tenant = p_tenant AND run_id = p_run FOR UPDATE;
    v_now := orch.utc_ms();
    IF NOT FOUND OR r.status <> 'running' OR r.cancel_requested_utc IS NOT NULL THEN
        RETURN r.status;
    END IF;
    UPDATE orch.runs SET cancel_requested_utc = v_now, cancel_reason = p_reason
    WHERE tenant = p_tenant AND run_id = p_run
    RETURNING * INTO r;
    WITH cancelled AS (
        UPDATE orch.steps AS s
        SET
            status = 'cancelled', error_code = 'CANCELLED', error_message = NULL, ended_utc = v_now,
            sent_utc = NULL, due_utc = NULL, undecided_utc = NULL
        WHERE s.tenant = p_tenant AND s.run_id = p_run AND s.status IN ('pending', 'queued', 'retrying')
        RETURNING s.step_no
    )
    SELECT array_agg(t.step_no) INTO v_cancelled FROM cancelled AS t;
    RETURN orch.record(r, 'run.updated', orch.changes_of(r, v_cancelled));
END;
$$;
