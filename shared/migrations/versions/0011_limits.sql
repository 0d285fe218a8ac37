-- What a tenant may have. No row, or NULL: no limit, and a weight of 1.

CREATE TABLE orch.tenant_limits (
    tenant text COLLATE "C" NOT NULL,
    weight double precision NOT NULL DEFAULT 1,
    max_running_steps integer,
    max_queued_steps integer,
    CONSTRAINT tenant_limits_pk PRIMARY KEY (tenant),
    CONSTRAINT tenant_limits_weight_range CHECK (weight BETWEEN 0.001 AND 1000),
    CONSTRAINT tenant_limits_not_negative CHECK (max_running_steps >= 0 AND max_queued_steps >= 0)
);

ALTER TABLE orch.tenant_limits ENABLE ROW LEVEL SECURITY;
ALTER TABLE orch.tenant_limits FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON orch.tenant_limits TO orch_api
USING (tenant = current_setting('orch.tenant', TRUE))
WITH CHECK (tenant = current_setting('orch.tenant', TRUE));
CREATE POLICY all_tenants ON orch.tenant_limits TO orch_service USING (TRUE) WITH CHECK (TRUE);
GRANT SELECT ON orch.tenant_limits TO orch_api, orch_service;
GRANT INSERT, UPDATE ON orch.tenant_limits TO orch_api;

-- How many steps of a tenant run, or are sent to be run: what its max_running_steps bounds. One statement,
-- so that a step on its way from one to the other counts once. Counted from the rows, among all that run in
-- the installation (the tenant must not be looked up by key: that would read its whole history).
CREATE FUNCTION orch.active_steps(p_tenant text) RETURNS integer
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT count(*)::integer FROM (
        SELECT 1 FROM orch.steps AS s
        WHERE s.lease_until IS NOT NULL AND (s.tenant = p_tenant) IS TRUE
        UNION ALL
        SELECT 1 FROM orch.steps AS s
        WHERE s.status = 'queued' AND s.sent_utc IS NOT NULL AND (s.tenant = p_tenant) IS TRUE
    ) AS a;
END;

-- As in 0005, and a step of a tenant with a limit is claimed only while it is marked as sent: that mark is
-- its share of the limit. A message of an earlier sending finds no mark, and is dropped.
CREATE OR REPLACE FUNCTION orch.claim(
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
    IF EXISTS (SELECT 1 FROM orch.tenant_limits AS l WHERE l.tenant = p_tenant AND l.max_running_steps IS NOT NULL)
    THEN
        PERFORM 1 FROM orch.steps AS s
        WHERE s.tenant = p_tenant AND s.run_id = p_run AND s.step_no = p_step AND s.sent_utc IS NOT NULL;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
    END IF;
    c := orch.take(r, p_step, 'queued', p_worker, p_lease_ms);
    IF c.step_no IS NOT NULL THEN
        PERFORM orch.record(r, NULL, ARRAY[(p_step, c.step_id, 'running', c.attempt, c.pool)::orch.step_change]);
    END IF;
    RETURN c;
END;
$$;

-- As in 0006, and a pick moves the tenant's virtual time by 1 / weight, and takes no more steps than its
-- max_running_steps has room for. A hand-off needs no look at the limit: it takes a step in the transaction
-- that ends one.
CREATE OR REPLACE FUNCTION orch.pick(p_pool text, p_tenant text)
RETURNS TABLE (tenant text, run_id uuid, step_no integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orch, pg_temp AS $$
DECLARE
    v_slots integer;
    v_out integer;
    v_budget integer;
    v_turn text;
    v_weight double precision;
    v_max integer;
    v_room integer;
    v_limited text [] := '{}';
    v_rooms integer [] := '{}';
    v_place integer;
    v_passed text [] := '{}';
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
        SELECT q.tenant, coalesce(l.weight, 1), l.max_running_steps INTO v_turn, v_weight, v_max
        FROM orch.tenant_queues AS q
        LEFT JOIN orch.tenant_limits AS l ON l.tenant = q.tenant
        WHERE q.pool = p_pool AND q.backlog AND q.tenant <> ALL(v_passed)
        ORDER BY q.virtual_time, q.tenant LIMIT 1;
        EXIT WHEN NOT FOUND;
        v_room := v_budget;
        IF v_max IS NOT NULL THEN
            v_place := array_position(v_limited, v_turn);
            IF v_place IS NULL THEN
                -- The limit is for all pools together, so one of their pickers at a time serves this tenant; then
                -- what was counted can only shrink behind its back. None waits for the lock: two that each serve
                -- two tenants could wait in a circle. The next pick comes back to it.
                v_room := 0;
                IF pg_try_advisory_xact_lock(hashtext('orch.limit'), hashtext(v_turn)) THEN
                    v_room := v_max - orch.active_steps(v_turn);
                END IF;
                v_limited := array_append(v_limited, v_turn);
                v_rooms := array_append(v_rooms, v_room);
                v_place := cardinality(v_limited);
            END IF;
            v_room := v_rooms[v_place];
        END IF;
        IF v_room <= 0 THEN
            -- It stays in line, for when a step of it ends.
            v_passed := array_append(v_passed, v_turn);
            CONTINUE;
        END IF;
        v_sole := NOT EXISTS (
            SELECT 1 FROM orch.tenant_queues AS q
            WHERE q.pool = p_pool AND q.backlog AND q.tenant <> v_turn AND q.tenant <> ALL(v_passed)
        );
        RETURN QUERY
        WITH ready AS (
            SELECT s.ctid AS place FROM orch.steps AS s
            WHERE s.tenant = v_turn AND s.pool = p_pool AND s.status = 'queued' AND s.sent_utc IS NULL
            ORDER BY s.queued_utc, s.run_id, s.step_no
            LIMIT CASE WHEN v_sole THEN least(v_budget, v_room) ELSE 1 END
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
            UPDATE orch.tenant_queues AS q SET virtual_time = q.virtual_time + v_picked / v_weight
            WHERE q.tenant = v_turn AND q.pool = p_pool;
            v_budget := v_budget - v_picked;
            IF v_max IS NOT NULL THEN
                v_rooms[v_place] := v_room - v_picked;
            END IF;
        END IF;
    END LOOP;
    IF cardinality(v_passed) > 0 THEN
        -- Being held back earns no credit either.
        UPDATE orch.tenant_queues AS q SET virtual_time = n.virtual_time
        FROM (
            SELECT min(b.virtual_time) AS virtual_time FROM orch.tenant_queues AS b
            WHERE b.pool = p_pool AND b.backlog AND b.tenant <> ALL(v_passed)
        ) AS n
        WHERE q.pool = p_pool AND q.tenant = ANY(v_passed) AND q.virtual_time < n.virtual_time;
    END IF;
END;
$$;
