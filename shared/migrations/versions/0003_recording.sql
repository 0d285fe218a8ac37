-- What the transitions share: the words for what they change, the rule for a pending step, and the one
-- place that writes events and the run's row.

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
