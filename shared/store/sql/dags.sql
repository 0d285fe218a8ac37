-- DAG versions: written once, read often, never changed but for being disabled.

-- name: insert_version
-- Record a version unless its name is taken; no row then.
INSERT INTO orch.dag_versions (
    tenant, dag_id, version, precedence, spec_hash, step_count, metadata, definition, signature, created_by
)
VALUES (
    %(tenant)s, %(dag_id)s, %(version)s, %(precedence)s, decode(%(spec_hash)s, 'hex'), %(step_count)s,
    %(metadata)s::json, %(definition)s::json, %(signature)s::json, %(created_by)s
)
ON CONFLICT (tenant, dag_id, version) WHERE step_count > 0 DO NOTHING
RETURNING dag_version_id;

-- name: insert_steps
-- Record the steps of a version from one JSON list.
INSERT INTO orch.dag_steps (
    tenant, dag_version_id, step_no, step_id, uses, params, when_expr, run_on, disabled,
    max_attempts, initial_delay_ms, max_delay_ms, multiplier, timeout_ms, pool,
    predecessors, reads_inputs, refs
)
SELECT
    %(tenant)s, %(dag_version_id)s, s.step_no, s.step_id, s.uses, s.params, s.when_expr, s.run_on, s.disabled,
    s.max_attempts, s.initial_delay_ms, s.max_delay_ms, s.multiplier, s.timeout_ms, s.pool, s.predecessors,
    s.reads_inputs, s.refs
FROM json_to_recordset(%(steps)s::json) AS s (
    step_no integer, step_id text, uses text, params json, when_expr text, run_on text, disabled boolean,
    max_attempts integer, initial_delay_ms integer, max_delay_ms integer, multiplier double precision,
    timeout_ms bigint, pool text, predecessors integer, reads_inputs boolean, refs integer []
);

-- name: insert_edges
-- Record the edges of a version from two arrays of the same length.
INSERT INTO orch.dag_edges (tenant, dag_version_id, from_no, to_no)
SELECT %(tenant)s, %(dag_version_id)s, e.from_no, e.to_no
FROM unnest(%(from_nos)s::integer [], %(to_nos)s::integer []) AS e (from_no, to_no);

-- name: get_version
-- One version with its definition.
SELECT
    v.dag_id, v.version, encode(v.spec_hash, 'hex'), v.created_utc, v.created_by, v.disabled_utc,
    v.step_count, v.metadata, v.definition, v.signature
FROM orch.dag_versions AS v
WHERE v.tenant = %(tenant)s AND v.dag_id = %(dag_id)s AND v.version = %(version)s AND v.step_count > 0;

-- name: list_versions
-- Versions by DAG, newest first, after the last one seen.
SELECT
    v.dag_id, v.version, encode(v.spec_hash, 'hex'), v.created_utc, v.created_by, v.disabled_utc,
    v.step_count, v.metadata, NULL, v.signature
FROM orch.dag_versions AS v
WHERE
    v.tenant = %(tenant)s AND v.step_count > 0
    AND (%(dag_id)s::text IS NULL OR v.dag_id = %(dag_id)s)
    AND (%(active)s::boolean IS NULL OR (v.disabled_utc IS NULL) = %(active)s)
    AND (
        %(after_dag_id)s::text IS NULL
        OR v.dag_id > %(after_dag_id)s
        OR (
            v.dag_id = %(after_dag_id)s
            AND (v.precedence, v.version) < (%(after_precedence)s, %(after_version)s)
        )
    )
ORDER BY v.dag_id, v.precedence DESC, v.version DESC
LIMIT %(max_rows)s;

-- name: set_active
-- Enable or disable a version; the time of the first disabling stays.
UPDATE orch.dag_versions AS v
SET
    disabled_utc = CASE
        WHEN %(active)s THEN NULL
        ELSE coalesce(v.disabled_utc, date_trunc('milliseconds', clock_timestamp()))
    END
WHERE v.tenant = %(tenant)s AND v.dag_id = %(dag_id)s AND v.version = %(version)s AND v.step_count > 0;

-- name: find_startable
-- The version that a run would use: the one named, or the highest active one.
SELECT
    v.dag_version_id, v.version, encode(v.spec_hash, 'hex'), v.disabled_utc IS NULL,
    v.metadata -> 'inputsSchema'
FROM orch.dag_versions AS v
WHERE
    v.tenant = %(tenant)s AND v.dag_id = %(dag_id)s AND v.step_count > 0
    AND (%(version)s::text IS NULL OR v.version = %(version)s)
ORDER BY (v.disabled_utc IS NULL) DESC, v.precedence DESC, v.version DESC
LIMIT 1;
