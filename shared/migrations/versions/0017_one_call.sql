-- What clients ask for most, in one call each: a round trip less, and plans that a connection keeps.

CREATE TYPE orch.startable AS (
    dag_version_id bigint, version text, spec_hash bytea, active boolean, inputs_schema json,
    queue_limited boolean
);

-- The version that a run would use: the one named, or the highest active one, else the highest; and whether
-- the tenant's queued steps are limited. NULL if there is none.
CREATE FUNCTION orch.find_startable(p_tenant text, p_dag_id text, p_version text) RETURNS orch.startable
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_id bigint;
    v_found orch.startable;
BEGIN
    IF p_version IS NOT NULL THEN
        SELECT v.dag_version_id INTO v_id FROM orch.dag_versions AS v
        WHERE v.tenant = p_tenant AND v.dag_id = p_dag_id AND v.version = p_version AND v.step_count > 0;
    ELSE
        SELECT v.dag_version_id INTO v_id FROM orch.dag_versions AS v
        WHERE v.tenant = p_tenant AND v.dag_id = p_dag_id AND v.step_count > 0 AND v.disabled_utc IS NULL
        ORDER BY v.precedence DESC, v.version DESC LIMIT 1;
        IF NOT FOUND THEN
            SELECT v.dag_version_id INTO v_id FROM orch.dag_versions AS v
            WHERE v.tenant = p_tenant AND v.dag_id = p_dag_id AND v.step_count > 0
            ORDER BY v.precedence DESC, v.version DESC LIMIT 1;
        END IF;
    END IF;
    SELECT
        v.dag_version_id, v.version, v.spec_hash, v.disabled_utc IS NULL, v.metadata -> 'inputsSchema',
        EXISTS (
            SELECT 1 FROM orch.tenant_limits AS l
            WHERE l.tenant = p_tenant AND l.max_queued_steps IS NOT NULL
        )
    INTO v_found
    FROM orch.dag_versions AS v
    WHERE v.tenant = p_tenant AND v.dag_version_id = v_id;
    RETURN v_found;
END;
$$;

-- Start a run of the version that a caller names, unless something must be looked at before: what there is to
-- look at is in chosen then, and after that the caller names the version by its id, p_checked, and it is
-- started. Without a run and without anything to look at, the token is taken.
CREATE FUNCTION orch.start_named_run(
    p_tenant text, p_run uuid, p_dag_id text, p_version text, p_checked bigint, p_inputs json,
    p_inputs_hash bytea, p_token text, p_trace text, p_by text,
    OUT chosen orch.startable, OUT must_check boolean, OUT change orch.change, OUT run orch.runs
)
LANGUAGE plpgsql AS $$
BEGIN
    must_check := FALSE;
    IF p_checked IS NULL THEN
        chosen := orch.find_startable(p_tenant, p_dag_id, p_version);
        must_check := chosen.dag_version_id IS NULL OR NOT chosen.active OR chosen.inputs_schema IS NOT NULL
            OR chosen.queue_limited;
    END IF;
    IF NOT must_check THEN
        change := orch.start_run(
            p_tenant, p_run, coalesce(p_checked, chosen.dag_version_id), p_inputs, p_inputs_hash, p_token,
            p_trace, p_by
        );
        IF change.accepted THEN
            SELECT * INTO run FROM orch.runs AS r WHERE r.tenant = p_tenant AND r.run_id = p_run;
        END IF;
    END IF;
END;
$$;

-- All steps of a run in topological order, as the API shows them: a JSON array.
CREATE FUNCTION orch.shown_steps(p_tenant text, p_run uuid, p_dag_version_id bigint) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    c_time CONSTANT text := 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"';
BEGIN
    RETURN '[' || array_to_string(ARRAY(
        SELECT row_to_json(shown)
        FROM (
            SELECT
                d.step_id AS "stepId", s.status, d.uses, s.pool, s.attempt, s.error_code AS "errorCode",
                s.error_message AS "errorMessage", encode(s.inputs_hash, 'hex') AS "inputsHash",
                encode(s.outputs_hash, 'hex') AS "outputsHash",
                to_char(s.queued_utc AT TIME ZONE 'UTC', c_time) AS "queuedUtc",
                to_char(s.started_utc AT TIME ZONE 'UTC', c_time) AS "startedUtc",
                to_char(s.ended_utc AT TIME ZONE 'UTC', c_time) AS "endedUtc",
                to_char(s.due_utc AT TIME ZONE 'UTC', c_time) AS "dueUtc"
            FROM orch.steps AS s
            -- Looked up step by step: a planner without statistics would go through the whole version for
            -- each.
            CROSS JOIN LATERAL (
                SELECT n.step_id, n.uses
                FROM orch.dag_steps AS n
                WHERE n.tenant = p_tenant AND n.dag_version_id = p_dag_version_id AND n.step_no = s.step_no
                OFFSET 0
            ) AS d
            WHERE s.tenant = p_tenant AND s.run_id = p_run
            ORDER BY s.step_no
        ) AS shown
    ), ',') || ']';
END;
$$;
