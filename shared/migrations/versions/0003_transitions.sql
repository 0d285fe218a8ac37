-- The transitions: one function a verb, one transaction, one round trip.
-- Each takes the run's lock first, then its steps', is guarded by the state that it leaves
-- (and, for a running step, by its attempt), and writes its events before it returns.

CREATE TYPE orch.step_change AS (step_no integer, step_id text, status text, attempt integer, pool text);

-- A step taken for one attempt: what its worker needs.
CREATE TYPE orch.claimed AS (
    step_no integer, step_id text, attempt integer, tries integer,
    dag_id text, dag_version text, trace_id text,
    uses text, params json, when_expr text,
    max_attempts integer, initial_delay_ms integer, max_delay_ms integer, multiplier double precision,
    timeout_ms bigint, pool text, inputs json, ancestors json
);

-- What a transition did: not accepted when the guard found another state; the pools that have ready
-- steps now; whether a when is to be evaluated; the run's status; and a step handed over, if any.
CREATE TYPE orch.change AS (
    accepted boolean, ready_pools text [], undecided boolean, run_status text,
    step_no integer, step_id text, attempt integer, tries integer,
    dag_id text, dag_version text, trace_id text,
    uses text, params json, when_expr text,
    max_attempts integer, initial_delay_ms integer, max_delay_ms integer, multiplier double precision,
    timeout_ms bigint, pool text, inputs json, ancestors json
);

-- Times are kept in milliseconds, so that what the API shows is what is compared.
CREATE FUNCTION orch.utc_ms() RETURNS timestamptz
LANGUAGE sql VOLATILE
RETURN date_trunc('milliseconds', clock_timestamp());

-- SHA-256 of the canonical JSON of an empty object: the outputs of a skipped step.
CREATE FUNCTION orch.empty_outputs_hash() RETURNS bytea
LANGUAGE sql IMMUTABLE
RETURN decode('44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a', 'hex');

-- What happens to a pending step, given how many predecessors are open and whether one failed:
-- 'wait', 'unlock', 'ask' (its when decides), or the error code of its skip.
CREATE FUNCTION orch.verdict(
    waiting integer, upstream_failed boolean, run_on text, disabled boolean, when_expr text
) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN waiting > 0 THEN 'wait'
    WHEN run_on = 'success' AND upstream_failed THEN 'UPSTREAM_FAILED'
    WHEN run_on = 'failure' AND NOT upstream_failed THEN 'CONDITION_FALSE'
    WHEN disabled THEN 'STEP_DISABLED'
    WHEN when_expr IS NOT NULL THEN 'ask'
    ELSE 'unlock'
END;

CREATE FUNCTION orch.verdict_status(verdict text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE verdict
    WHEN 'wait' THEN 'pending' WHEN 'ask' THEN 'pending' WHEN 'unlock' THEN 'queued' ELSE 'skipped'
END;

CREATE FUNCTION orch.verdict_error(verdict text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN verdict NOT IN ('wait', 'ask', 'unlock') THEN verdict END;

-- outputsHash of an ended run: over {specHash, inputsHash, steps} in topological order, as canonical JSON.
-- (OFFSET 0 keeps a lookup by key a lookup: the planner must not turn the join around.)
CREATE FUNCTION orch.run_outputs_hash(r orch.runs) RETURNS bytea
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT sha256(convert_to(
        '{"inputsHash":"' || encode((r).inputs_hash, 'hex')
        || '","specHash":"' || encode(v.spec_hash, 'hex') || '","steps":['
        || (
            SELECT string_agg(
                '["' || d.step_id || '","' || s.status || '",'
                || coalesce('"' || encode(s.outputs_hash, 'hex') || '"', 'null') || ']',
                ',' ORDER BY s.step_no
            )
            FROM orch.steps AS s
            CROSS JOIN LATERAL (
                SELECT q.step_id FROM orch.dag_steps AS q
                WHERE
                    q.tenant = (r).tenant AND q.dag_version_id = (r).dag_version_id
                    AND q.step_no = s.step_no
                OFFSET 0
            ) AS d
            WHERE s.tenant = (r).tenant AND s.run_id = (r).run_id
        )
        || ']}', 'UTF8'
    ))
    FROM orch.dag_versions AS v
    WHERE v.tenant = (r).tenant AND v.dag_version_id = (r).dag_version_id;
END;

-- Write the events of a transition, in order, and the run's row with them: the next seq, the head of
-- the hash chain, the counts of open and failed steps, and the end of the run when no step is open.
-- The caller holds the run's lock and passes its row; p_first is an event of the run to begin with.
-- An event's line is canonical JSON: its values need no escaping, which CHECK constraints guarantee.
CREATE FUNCTION orch.record(r orch.runs, p_first text, p_changes orch.step_change []) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    c orch.step_change;
    v_now timestamptz := orch.utc_ms();
    v_about text := '"dagId":"' || r.dag_id || '","runId":"' || r.run_id || '","seq":';
    v_tail text := '"tenant":"' || r.tenant || '","timestamp":"'
        || to_char(v_now AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
        || '","traceId":"' || r.trace_id || '","type":"';
    v_seq integer := r.seq;
    v_head bytea := r.ledger_head;
    v_open integer := r.open_steps;
    v_failed integer := r.failed_steps;
    v_status text := r.status;
    v_lines text [] := '{}';
    v_hashes bytea [] := '{}';
    v_line text;
BEGIN
    IF p_first IS NOT NULL THEN
        v_seq := v_seq + 1;
        v_line := '{' || v_about || v_seq || ',"status":"running",' || v_tail || p_first || '"}';
        v_head := sha256(v_head || convert_to(v_line, 'UTF8'));
        v_lines := array_append(v_lines, v_line);
        v_hashes := array_append(v_hashes, v_head);
    END IF;
    FOREACH c IN ARRAY p_changes LOOP
        v_seq := v_seq + 1;
        v_line := '{"attempt":' || c.attempt || ',' || v_about || v_seq || ',"status":"running","stepId":"'
            || c.step_id || '","stepStatus":"' || c.status || '",' || v_tail || 'step.updated"}';
        v_head := sha256(v_head || convert_to(v_line, 'UTF8'));
        v_lines := array_append(v_lines, v_line);
        v_hashes := array_append(v_hashes, v_head);
        IF c.status IN ('succeeded', 'failed', 'skipped', 'cancelled') THEN
            v_open := v_open - 1;
            IF c.status = 'failed' THEN
                v_failed := v_failed + 1;
            END IF;
        END IF;
    END LOOP;
    IF v_open = 0 THEN
        v_status := CASE
            WHEN r.cancel_requested_utc IS NOT NULL THEN 'cancelled'
            WHEN v_failed > 0 THEN 'failed'
            ELSE 'completed'
        END;
        v_seq := v_seq + 1;
        v_line := '{' || v_about || v_seq || ',"status":"' || v_status || '",'
            || v_tail || 'run.' || v_status || '"}';
        v_head := sha256(v_head || convert_to(v_line, 'UTF8'));
        v_lines := array_append(v_lines, v_line);
        v_hashes := array_append(v_hashes, v_head);
    END IF;
    INSERT INTO orch.events (tenant, run_id, seq, line, hash)
    SELECT r.tenant, r.run_id, r.seq + e.n, e.line, e.hash
    FROM unnest(v_lines, v_hashes) WITH ORDINALITY AS e (line, hash, n);
    IF v_status = 'running' THEN
        UPDATE orch.runs
        SET seq = v_seq, ledger_head = v_head, open_steps = v_open, failed_steps = v_failed
        WHERE tenant = r.tenant AND run_id = r.run_id;
    ELSE
        UPDATE orch.runs
        SET
            seq = v_seq, ledger_head = v_head, open_steps = v_open, failed_steps = v_failed,
            status = v_status, ended_utc = v_now, outputs_hash = orch.run_outputs_hash(r)
        WHERE tenant = r.tenant AND run_id = r.run_id;
    END IF;
    RETURN v_status;
END;
$$;

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

-- What expressions may see of ancestors: {"<step id>": {"status": ..., "outputs": {...}}}.
CREATE FUNCTION orch.ancestors(r orch.runs, p_refs integer []) RETURNS json
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT
        json_object_agg(
            a.step_id, json_build_object('status', a.status, 'outputs', coalesce(a.outputs, '{}'))
        )
    FROM unnest(p_refs) AS ref (step_no)
    CROSS JOIN LATERAL (
        SELECT d.step_id, s.status, s.outputs
        FROM orch.steps AS s, orch.dag_steps AS d
        WHERE
            s.tenant = (r).tenant AND s.run_id = (r).run_id AND s.step_no = ref.step_no
            AND d.tenant = (r).tenant AND d.dag_version_id = (r).dag_version_id AND d.step_no = ref.step_no
        OFFSET 0
    ) AS a;
END;

-- The changes that a set of steps went through, from the states that they are in now.
CREATE FUNCTION orch.changes_of(r orch.runs, p_steps integer []) RETURNS orch.step_change []
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT coalesce(
        array_agg(
            (c.step_no, c.step_id, c.status, c.attempt, c.pool)::orch.step_change ORDER BY c.step_no
        ), '{}'
    )
    FROM unnest(p_steps) AS n (step_no)
    CROSS JOIN LATERAL (
        SELECT s.step_no, d.step_id, s.status, s.attempt, s.pool
        FROM orch.steps AS s, orch.dag_steps AS d
        WHERE
            s.tenant = (r).tenant AND s.run_id = (r).run_id AND s.step_no = n.step_no
            AND d.tenant = (r).tenant AND d.dag_version_id = (r).dag_version_id AND d.step_no = n.step_no
        OFFSET 0
    ) AS c;
END;

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
