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
-- Record the steps of a version from its definition, with what was worked out for each, in the same order.
-- A concurrency key without a limit lets one step run at a time.
-- (ROWS FROM puts the rows of functions side by side; the linter does not know it.)
-- noqa: disable=RF01,PRS
INSERT INTO orch.dag_steps (
    tenant, dag_version_id, step_no, step_id, uses, params, when_expr, run_on, disabled,
    max_attempts, initial_delay_ms, max_delay_ms, multiplier, timeout_ms, pool,
    predecessors, only_no, leads, reads_inputs, refs, concurrency_key, concurrency_limit
)
SELECT
    v.tenant, v.dag_version_id, s.place - 1, s.id, s.uses, s."with", s."when", s."runOn", s.disabled,
    (s.retry ->> 'maxAttempts')::integer, (s.retry ->> 'initialDelayMs')::integer,
    (s.retry ->> 'maxDelayMs')::integer, (s.retry ->> 'multiplier')::double precision,
    s."timeoutMs", s.pool, s.predecessors, s.only_no, s.leads, s.reads_inputs, s.refs::integer [],
    s."concurrencyKey",
    CASE
        WHEN s."concurrencyKey" IS NOT NULL
            THEN coalesce((v.metadata -> 'concurrencyLimits' ->> s."concurrencyKey")::integer, 1)
    END
FROM orch.dag_versions AS v, ROWS FROM(
    json_to_recordset(v.definition -> 'steps') AS (
        id text, uses text, "with" json, "when" text, "runOn" text, disabled boolean, retry json,
        "timeoutMs" bigint, pool text, "concurrencyKey" text
    ),
    unnest(%(predecessors)s::integer []),
    unnest(%(only_nos)s::integer []),
    unnest(%(leads)s::boolean []),
    unnest(%(reads_inputs)s::boolean []),
    unnest(%(refs)s::text [])
) WITH ORDINALITY AS s (
    id, uses, "with", "when", "runOn", disabled, retry, "timeoutMs", pool, "concurrencyKey",
    predecessors, only_no, leads, reads_inputs, refs, place
)
WHERE v.tenant = %(tenant)s AND v.dag_version_id = %(dag_version_id)s;
-- noqa: enable=RF01,PRS

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

-- name: get_summary
-- One version without its definition, which may have megabytes.
SELECT
    v.dag_id, v.version, encode(v.spec_hash, 'hex'), v.created_utc, v.created_by, v.disabled_utc,
    v.step_count, v.metadata, NULL, v.signature
FROM orch.dag_versions AS v
WHERE v.tenant = %(tenant)s AND v.dag_id = %(dag_id)s AND v.version = %(version)s AND v.step_count > 0;

-- name: list_versions
-- Versions by DAG, newest first, after the last one seen, without what may be large and is not shown;
-- max_rows NULL: all of them. Each filter has its index, which the CASE chooses by repeating its condition.
-- The rest of the last one's DAG is sought apart, since the two halves of the key run in opposite directions.
WITH matching AS NOT MATERIALIZED (
    SELECT
        v.dag_id, v.version, encode(v.spec_hash, 'hex') AS spec_hash, v.created_utc, v.created_by,
        v.disabled_utc, v.step_count, v.metadata, NULL::json AS definition, NULL::json AS signature,
        v.precedence
    FROM orch.dag_versions AS v
    WHERE
        v.tenant = %(tenant)s
        AND CASE
            WHEN %(active)s::boolean IS NULL THEN v.step_count > 0
            WHEN %(active)s::boolean THEN v.disabled_utc IS NULL
            ELSE v.disabled_utc IS NOT NULL
        END
        AND (%(dag_id)s::text IS NULL OR v.dag_id = %(dag_id)s)
)

SELECT page.* FROM (
    (
        SELECT m.* FROM matching AS m
        WHERE
            m.dag_id = %(after_dag_id)s
            AND (m.precedence, m.version) < (%(after_precedence)s, %(after_version)s)
        ORDER BY m.dag_id, m.precedence DESC, m.version DESC
        LIMIT %(max_rows)s
    )
    UNION ALL
    (
        SELECT m.* FROM matching AS m
        WHERE %(after_dag_id)s::text IS NULL OR m.dag_id > %(after_dag_id)s
        ORDER BY m.dag_id, m.precedence DESC, m.version DESC
        LIMIT %(max_rows)s
    )
) AS page
ORDER BY page.dag_id, page.precedence DESC, page.version DESC
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
-- The version that a run would use: the one named, or the highest active one; and whether the tenant's
-- queued steps are limited.
SELECT f.dag_version_id, f.version, encode(f.spec_hash, 'hex'), f.active, f.inputs_schema, f.queue_limited
FROM orch.find_startable(%(tenant)s, %(dag_id)s, %(version)s) AS f
WHERE f.dag_version_id IS NOT NULL;
