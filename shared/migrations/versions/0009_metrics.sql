-- What has ended, counted and timed: the ledger's own counters, which no process can lose or reset.
-- They are counted from the events, some time after those were committed, so that no transition pays for it.

-- A row for each bucket of a histogram that anything fell into. Metrics: 'run' by the status of the run,
-- 'attempt' by that of the attempt, 'retry' for attempts that are to be followed by another.
CREATE TABLE orch.metric_totals (
    tenant text COLLATE "C" NOT NULL,
    metric text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    bucket integer NOT NULL,
    count bigint NOT NULL,
    sum_ms bigint NOT NULL,
    CONSTRAINT metric_totals_pk PRIMARY KEY (tenant, metric, status, bucket),
    CONSTRAINT metric_totals_metric_known CHECK (metric IN ('run', 'attempt', 'retry'))
) WITH (fillfactor = 50);

-- Up to which event a tenant's totals reach.
CREATE TABLE orch.metric_marks (
    tenant text COLLATE "C" NOT NULL,
    xid xid8 NOT NULL DEFAULT '0',
    event_id bigint NOT NULL DEFAULT 0,
    CONSTRAINT metric_marks_pk PRIMARY KEY (tenant)
) WITH (fillfactor = 50);

-- The upper bounds of the buckets of all durations; what takes longer falls into one bucket more.
CREATE FUNCTION orch.duration_bounds_ms() RETURNS double precision []
LANGUAGE sql IMMUTABLE
RETURN ARRAY[10, 100, 500, 2000, 10000, 60000, 600000, 3600000];

-- The bucket of a duration. Bounds are inclusive and durations whole, where width_bucket's are exclusive.
CREATE FUNCTION orch.duration_bucket(p_ms bigint) RETURNS integer
LANGUAGE sql IMMUTABLE
RETURN width_bucket(p_ms - 0.5::double precision, orch.duration_bounds_ms());

CREATE FUNCTION orch.elapsed_ms(p_from timestamptz, p_to timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN greatest(round(extract(EPOCH FROM p_to - p_from) * 1000), 0)::bigint;

-- Tell whether an event is the one with which an attempt ended. Of a step that is queued again or cancelled
-- an earlier event may have told of that, namely that it was lost or released, or that it will be retried.
CREATE FUNCTION orch.tells_end(
    p_tenant text, p_run uuid, p_seq integer, p_step_id text, p_step_status text,
    p_attempt integer, p_attempt_status text, p_same_moment boolean
) RETURNS boolean
LANGUAGE sql STABLE
RETURN CASE p_step_status
    WHEN 'running' THEN FALSE
    WHEN 'queued' THEN p_attempt_status IN ('lost', 'released')
    WHEN 'cancelled' THEN
        p_attempt_status = 'cancelled'
        OR p_same_moment AND NOT EXISTS (
            SELECT 1 FROM orch.events AS e
            WHERE
                e.tenant = p_tenant AND e.run_id = p_run AND e.seq < p_seq
                AND starts_with(e.line, '{"attempt":' || p_attempt || ',')
                AND (
                    strpos(e.line, '"stepId":"' || p_step_id || '","stepStatus":"queued"') > 0
                    OR strpos(e.line, '"stepId":"' || p_step_id || '","stepStatus":"retrying"') > 0
                )
        )
    ELSE TRUE
END;

-- Add at most p_limit events of a tenant to its totals; return how many were read. Each event counts once,
-- whatever commits late: only events below the horizon are read, below which nothing can appear any more, in
-- the order in which the mark moves. Whoever counts for the same tenant meanwhile waits for the mark.
-- Without sorts, the index in the order of commits is the only one that serves, also for a plan that was
-- made when the table was small.
CREATE FUNCTION orch.count_events_of(p_tenant text, p_limit integer) RETURNS integer
LANGUAGE plpgsql SET enable_sort = off AS $$
DECLARE
    v_mark orch.metric_marks;
    v_read integer;
BEGIN
    -- Nothing to do is what is found most often, and needs no lock. The mark is made ready first: under
    -- row-level security a comparison with a subquery or coalesce is no condition of an index, since the
    -- planner takes it for one that might tell what it sees, and all events would be read.
    SELECT * INTO v_mark FROM orch.metric_marks AS m WHERE m.tenant = p_tenant;
    IF NOT FOUND THEN
        v_mark.xid := '0';
        v_mark.event_id := 0;
    END IF;
    PERFORM 1 FROM orch.events AS e
    WHERE
        e.tenant = p_tenant AND (e.xid, e.event_id) > (v_mark.xid, v_mark.event_id)
        AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY e.xid, e.event_id LIMIT 1;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    INSERT INTO orch.metric_marks (tenant) VALUES (p_tenant) ON CONFLICT DO NOTHING;
    SELECT * INTO v_mark FROM orch.metric_marks AS m WHERE m.tenant = p_tenant FOR UPDATE;
    WITH batch AS MATERIALIZED (
        SELECT e.xid, e.event_id, e.run_id, e.seq, e.line
        FROM orch.events AS e
        WHERE
            e.tenant = p_tenant AND (e.xid, e.event_id) > (v_mark.xid, v_mark.event_id)
            AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY e.xid, e.event_id LIMIT p_limit
    ),
    told AS MATERIALIZED (
        SELECT b.run_id, b.seq, l.type, l.attempt, l."stepId" AS step_id, l."stepStatus" AS step_status
        FROM batch AS b
        CROSS JOIN LATERAL json_to_record(b.line::json)
            AS l (type text, attempt integer, "stepId" text, "stepStatus" text)
    ),
    ended (metric, status, ms) AS (
        SELECT 'run', r.status, orch.elapsed_ms(r.started_utc, r.ended_utc)
        FROM told AS t
        CROSS JOIN LATERAL (
            SELECT q.status, q.started_utc, q.ended_utc FROM orch.runs AS q
            WHERE q.tenant = p_tenant AND q.run_id = t.run_id OFFSET 0
        ) AS r
        WHERE t.type IN ('run.completed', 'run.failed', 'run.cancelled')
        UNION ALL
        SELECT 'attempt', a.status, orch.elapsed_ms(a.started_utc, a.ended_utc)
        FROM told AS t
        CROSS JOIN LATERAL (
            SELECT d.step_no FROM orch.runs AS q, orch.dag_steps AS d
            WHERE
                q.tenant = p_tenant AND q.run_id = t.run_id
                AND d.tenant = p_tenant AND d.dag_version_id = q.dag_version_id AND d.step_id = t.step_id
                AND d.step_no >= 0
            OFFSET 0
        ) AS d
        CROSS JOIN LATERAL (
            SELECT q.status, q.started_utc, q.ended_utc, q.ended_utc = s.ended_utc AS with_step
            FROM orch.attempts AS q, orch.steps AS s
            WHERE
                q.tenant = p_tenant AND q.run_id = t.run_id AND q.step_no = d.step_no AND q.attempt = t.attempt
                AND s.tenant = p_tenant AND s.run_id = t.run_id AND s.step_no = d.step_no
            OFFSET 0
        ) AS a
        WHERE
            t.attempt > 0 AND t.step_status <> 'running'
            AND orch.tells_end(
                p_tenant, t.run_id, t.seq, t.step_id, t.step_status, t.attempt, a.status, a.with_step
            )
        UNION ALL
        SELECT 'retry', '', 0 FROM told AS t WHERE t.step_status = 'retrying'
    ),
    counted AS (
        INSERT INTO orch.metric_totals AS m (tenant, metric, status, bucket, count, sum_ms)
        SELECT p_tenant, e.metric, e.status, orch.duration_bucket(e.ms), count(*), sum(e.ms)
        FROM ended AS e
        GROUP BY e.metric, e.status, orch.duration_bucket(e.ms)
        ON CONFLICT ON CONSTRAINT metric_totals_pk DO UPDATE
        SET count = m.count + excluded.count, sum_ms = m.sum_ms + excluded.sum_ms
    ),
    moved AS (
        UPDATE orch.metric_marks AS m SET xid = b.xid, event_id = b.event_id
        FROM (SELECT l.xid, l.event_id FROM batch AS l ORDER BY l.xid DESC, l.event_id DESC LIMIT 1) AS b
        WHERE m.tenant = p_tenant
    )
    SELECT count(*) INTO v_read FROM batch;
    RETURN v_read;
END;
$$;

-- The same for all tenants in turn, which is for a role that sees them all. It leaps from tenant to tenant,
-- and asks of each here whether there is anything to do: that costs half of what a call would.
CREATE FUNCTION orch.count_events(p_limit integer) RETURNS integer
LANGUAGE plpgsql SET enable_sort = off AS $$
DECLARE
    v_tenant text;
    v_read integer := 0;
BEGIN
    FOR v_tenant IN
        WITH RECURSIVE known AS (
            (SELECT e.tenant FROM orch.events AS e ORDER BY e.tenant LIMIT 1)
            UNION ALL
            SELECT n.tenant FROM known AS k
            CROSS JOIN LATERAL (
                SELECT e.tenant FROM orch.events AS e WHERE e.tenant > k.tenant ORDER BY e.tenant LIMIT 1
            ) AS n
        )
        SELECT k.tenant FROM known AS k
        LEFT JOIN orch.metric_marks AS m ON m.tenant = k.tenant
        CROSS JOIN LATERAL (
            SELECT 1 FROM orch.events AS e
            WHERE
                e.tenant = k.tenant AND (e.xid, e.event_id) > (coalesce(m.xid, '0'), coalesce(m.event_id, 0))
                AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
            ORDER BY e.xid, e.event_id LIMIT 1
        ) AS e
    LOOP
        v_read := v_read + orch.count_events_of(v_tenant, p_limit - v_read);
        EXIT WHEN v_read >= p_limit;
    END LOOP;
    RETURN v_read;
END;
$$;

-- Depth, oldest step and running steps of a tenant's queues, or of all tenants' for a role that may see them.
-- With the rights of orch_service, since row-level security would be a condition on the tenant in each scan,
-- for which the planner may take the primary key, and so read all that the tenant has ever run. Instead
-- it guards the tenant itself. What is sent or running is bounded by the fleet, whoever owns it.
CREATE FUNCTION orch.queues(p_tenant text)
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
            WHERE s.status = 'queued' AND s.sent_utc IS NOT NULL OFFSET 0
        ) AS o
        WHERE o.tenant BETWEEN v_first AND v_last
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

GRANT CREATE ON SCHEMA orch TO orch_service;
ALTER FUNCTION orch.queues(text) OWNER TO orch_service;
REVOKE CREATE ON SCHEMA orch FROM orch_service;
REVOKE ALL ON FUNCTION orch.queues(text) FROM public;
GRANT EXECUTE ON FUNCTION orch.queues(text) TO orch_api, orch_service;

DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['metric_totals', 'metric_marks'] LOOP
        EXECUTE format('ALTER TABLE orch.%I ENABLE ROW LEVEL SECURITY', table_name);
        EXECUTE format('ALTER TABLE orch.%I FORCE ROW LEVEL SECURITY', table_name);
        EXECUTE format(
            'CREATE POLICY tenant_only ON orch.%I TO orch_api'
            ' USING (tenant = current_setting(''orch.tenant'', TRUE))'
            ' WITH CHECK (tenant = current_setting(''orch.tenant'', TRUE))', table_name
        );
        EXECUTE format(
            'CREATE POLICY all_tenants ON orch.%I TO orch_service USING (TRUE) WITH CHECK (TRUE)', table_name
        );
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON orch.%I TO orch_api, orch_service', table_name);
    END LOOP;
END;
$$;
