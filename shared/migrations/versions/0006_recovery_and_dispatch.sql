-- What the sweeper does, each in small batches, any number of sweepers at once; and fair dispatch.
-- A batch takes run locks with SKIP LOCKED, so that it waits for nobody and nobody waits in a circle.

-- Queue the retries that are due. Returns where there is work now.
CREATE FUNCTION orch.wake(p_limit integer) RETURNS TABLE (tenant text, pool text)
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
            WHERE s.due_utc <= clock_timestamp()
            ORDER BY s.due_utc LIMIT p_limit
        ) AS d
        GROUP BY d.tenant, d.run_id ORDER BY d.tenant, d.run_id
    LOOP
        SELECT * INTO r FROM orch.runs AS q
        WHERE q.tenant = v_due.tenant AND q.run_id = v_due.run_id FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        WITH woken AS (
            UPDATE orch.steps AS s
            SET status = 'queued', due_utc = NULL, sent_utc = NULL, queued_utc = orch.utc_ms()
            WHERE
                s.tenant = r.tenant AND s.run_id = r.run_id AND s.step_no = ANY(v_due.step_nos)
                AND s.status = 'retrying'
            RETURNING s.step_no
        )
        SELECT array_agg(t.step_no) INTO v_woken FROM woken AS t;
        CONTINUE WHEN v_woken IS NULL;
        v_changes := orch.changes_of(r, v_woken);
        v_status := orch.record(r, NULL, v_changes);
        RETURN QUERY SELECT DISTINCT r.tenant::text, c.pool FROM unnest(v_changes) AS c;
    END LOOP;
END;
$$;

-- Take steps away from attempts whose lease ran out: queue them again, or fail them when too many of
-- their attempts were lost. The attempt that comes next fences the lost one off.
CREATE FUNCTION orch.rescue(p_limit integer, p_max_lost integer) RETURNS TABLE (
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
        WHERE s.lease_until < clock_timestamp()
        ORDER BY s.lease_until LIMIT p_limit
    LOOP
        SELECT * INTO r FROM orch.runs AS q
        WHERE q.tenant = v_late.tenant AND q.run_id = v_late.run_id FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
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
            lost = s.lost + 1, lease_until = NULL, worker_id = NULL, sent_utc = NULL,
            status = CASE
                WHEN r.cancel_requested_utc IS NOT NULL THEN 'cancelled'
                WHEN s.lost + 1 >= p_max_lost THEN 'failed'
                ELSE 'queued'
            END,
            queued_utc = CASE
                WHEN r.cancel_requested_utc IS NULL AND s.lost + 1 < p_max_lost THEN v_now ELSE s.queued_utc
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
        RETURNING s.step_no, d.step_id, s.status, s.attempt, s.pool INTO v_step;
        v_result := orch.advance(
            r, NULL, ARRAY[v_step], CASE WHEN v_step.status = 'failed' THEN ARRAY[v_step.step_no] ELSE '{}' END,
            '{}', NULL, NULL
        );
        FOREACH v_ready IN ARRAY v_result.ready_pools LOOP
            RETURN QUERY SELECT r.tenant::text, v_ready, r.run_id, FALSE;
        END LOOP;
        IF v_result.undecided THEN
            RETURN QUERY SELECT r.tenant::text, NULL::text, r.run_id, TRUE;
        END IF;
    END LOOP;
END;
$$;

-- Pick ready steps of a pool for sending, and mark them as sent: the tenant with the smallest virtual
-- time first, its oldest step first, while no more than two messages a slot are out. Returns at once
-- while more than one a slot is out. p_tenant has just got ready steps.
-- Runs with the rights of orch_service, since fairness looks at all tenants; it returns ids alone.
CREATE FUNCTION orch.pick(p_pool text, p_tenant text)
RETURNS TABLE (tenant text, run_id uuid, step_no integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orch, pg_temp AS $$
DECLARE
    v_slots integer;
    v_out integer;
    v_budget integer;
    v_turn text;
    v_sole boolean;
    v_picked integer;
BEGIN
    -- A crash may forget these marks: the steps are then sent twice, and a doorbell may ring twice.
    PERFORM set_config('synchronous_commit', 'off', TRUE);
    -- One picker a pool at a time: it is short, and two would serve the same tenant twice.
    PERFORM pg_advisory_xact_lock(hashtext('orch.pick'), hashtext(p_pool));
    IF p_tenant IS NOT NULL THEN
        -- Who comes back from idleness starts level with those who wait: idle time earns no credit.
        INSERT INTO orch.tenant_queues AS q (tenant, pool, virtual_time, backlog)
        VALUES (
            p_tenant, p_pool,
            (SELECT coalesce(min(b.virtual_time), 0) FROM orch.tenant_queues AS b WHERE b.pool = p_pool AND b.backlog),
            TRUE
        )
        ON CONFLICT ON CONSTRAINT tenant_queues_pk DO UPDATE
        SET backlog = TRUE, virtual_time = greatest(q.virtual_time, excluded.virtual_time)
        WHERE NOT q.backlog;
    END IF;
    SELECT coalesce(sum(w.slots), 0) INTO v_slots FROM orch.workers AS w
    WHERE p_pool = ANY(w.pools) AND w.seen_utc > clock_timestamp() - INTERVAL '30 seconds';
    v_slots := greatest(v_slots, 8);
    SELECT count(*) INTO v_out FROM orch.steps AS s
    WHERE s.pool = p_pool AND s.status = 'queued' AND s.sent_utc IS NOT NULL;
    IF v_out > v_slots THEN
        RETURN;
    END IF;
    v_budget := 2 * v_slots - v_out;
    WHILE v_budget > 0 LOOP
        SELECT q.tenant INTO v_turn FROM orch.tenant_queues AS q
        WHERE q.pool = p_pool AND q.backlog ORDER BY q.virtual_time, q.tenant LIMIT 1;
        EXIT WHEN NOT FOUND;
        v_sole := NOT EXISTS (
            SELECT 1 FROM orch.tenant_queues AS q
            WHERE q.pool = p_pool AND q.backlog AND q.tenant <> v_turn
        );
        RETURN QUERY
        WITH ready AS (
            SELECT s.ctid AS place FROM orch.steps AS s
            WHERE s.tenant = v_turn AND s.pool = p_pool AND s.status = 'queued' AND s.sent_utc IS NULL
            ORDER BY s.queued_utc, s.run_id, s.step_no
            LIMIT CASE WHEN v_sole THEN v_budget ELSE 1 END
            FOR UPDATE SKIP LOCKED
        )
        UPDATE orch.steps AS s SET sent_utc = clock_timestamp()
        FROM ready AS p
        WHERE s.ctid = p.place
        RETURNING s.tenant::text, s.run_id, s.step_no;
        GET DIAGNOSTICS v_picked = ROW_COUNT;
        IF v_picked = 0 THEN
            -- A step that becomes ready after this look is announced by its own pick.
            UPDATE orch.tenant_queues AS q SET backlog = FALSE WHERE q.tenant = v_turn AND q.pool = p_pool;
        ELSE
            UPDATE orch.tenant_queues AS q SET virtual_time = q.virtual_time + v_picked
            WHERE q.tenant = v_turn AND q.pool = p_pool;
            v_budget := v_budget - v_picked;
        END IF;
    END LOOP;
END;
$$;

GRANT CREATE ON SCHEMA orch TO orch_service;
ALTER FUNCTION orch.pick(text, text) OWNER TO orch_service;
REVOKE CREATE ON SCHEMA orch FROM orch_service;
REVOKE ALL ON FUNCTION orch.pick(text, text) FROM public;
GRANT EXECUTE ON FUNCTION orch.pick(text, text) TO orch_api, orch_service;
