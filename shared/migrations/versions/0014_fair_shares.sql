-- Fair shares by slot time.

-- How far a pool has come: the virtual time of the tenant that was served last. Of the installation, not of a
-- tenant. Who joins the line starts there, so that neither idleness nor being held back earns credit.
CREATE TABLE orch.pool_clocks (
    pool text COLLATE "C" NOT NULL,
    virtual_time double precision NOT NULL,
    -- What a message has taken of late, whoever's it was; 0 while nothing is known.
    cost_ms double precision NOT NULL DEFAULT 0,
    CONSTRAINT pool_clocks_pk PRIMARY KEY (pool)
) WITH (fillfactor = 50);
GRANT SELECT, INSERT, UPDATE ON orch.pool_clocks TO orch_service;
INSERT INTO orch.pool_clocks (pool, virtual_time)
SELECT q.pool, max(q.virtual_time) FROM orch.tenant_queues AS q GROUP BY q.pool;

-- Virtual time is milliseconds of slots by weight. cost_ms: what a message of the tenant has taken of late.
ALTER TABLE orch.tenant_queues ADD COLUMN cost_ms double precision NOT NULL DEFAULT 100;
-- Out of line, until a step of the tenant ends: it has ready steps, and its max_running_steps has no room.
ALTER TABLE orch.tenant_queues ADD COLUMN held boolean NOT NULL DEFAULT FALSE;
CREATE INDEX tenant_queues_held ON orch.tenant_queues (tenant) WHERE held;

-- Pick ready steps of a pool for sending, and mark them as sent: the tenant with the smallest virtual
-- time first, its oldest step first, while no more than two messages a slot are out; or one, where they take
-- so long that a slot's next one can be sent in time. Returns at once while more than half of that is out.
-- Rows without a step name pools to be picked from again, for a tenant.
--
-- p_ready have got ready steps. p_used_by, p_messages, p_used_ms: whose messages have left their slots, how
-- many, and how long these were taken for. A pick charges each message with what one has cost of late; what
-- it did cost, hand-offs and all, is settled here.
-- Runs with the rights of orch_service, since fairness looks at all tenants; it returns ids alone.
CREATE FUNCTION orch.pick(
    p_pool text, p_ready text [], p_used_by text [], p_messages integer [], p_used_ms double precision []
) RETURNS TABLE (tenant text, run_id uuid, step_no integer, pool text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orch, pg_temp AS $$
DECLARE
    c_long_ms CONSTANT double precision := 40;
    v_slots integer;
    v_out integer;
    v_budget integer;
    v_known double precision;
    v_pool_cost double precision;
    v_each double precision;
    v_ahead integer;
    v_clock double precision;
    v_turn text;
    v_time double precision;
    v_cost double precision;
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
    SELECT k.virtual_time, k.cost_ms INTO v_known, v_pool_cost FROM orch.pool_clocks AS k
    WHERE k.pool = p_pool;
    v_clock := coalesce(v_known, 0);
    IF cardinality(p_used_by) > 0 THEN
        UPDATE orch.tenant_queues AS q
        SET
            virtual_time = q.virtual_time + (u.used_ms - u.messages * q.cost_ms) / u.weight,
            cost_ms = CASE
                -- A message that found nothing to do does not tell what one costs.
                WHEN u.used_ms > 0
                    THEN greatest(
                        1, q.cost_ms + (u.used_ms / greatest(u.messages, 1) - q.cost_ms) * (1 - 0.9 ^ u.messages)
                    )
                ELSE q.cost_ms
            END
        FROM (
            SELECT n.tenant, n.messages, n.used_ms, coalesce(l.weight, 1) AS weight
            FROM unnest(p_used_by, p_messages, p_used_ms) AS n (tenant, messages, used_ms)
            LEFT JOIN orch.tenant_limits AS l ON l.tenant = n.tenant
        ) AS u
        WHERE q.tenant = u.tenant AND q.pool = p_pool;
        SELECT sum(n.used_ms) / sum(n.messages) INTO v_each
        FROM unnest(p_messages, p_used_ms) AS n (messages, used_ms) WHERE n.messages > 0 AND n.used_ms > 0;
        -- Where it has not changed much, the row need not be written.
        IF v_each NOT BETWEEN 0.8 * v_pool_cost AND 1.2 * v_pool_cost THEN
            v_pool_cost := CASE WHEN v_pool_cost = 0 THEN v_each ELSE 0.8 * v_pool_cost + 0.2 * v_each END;
            UPDATE orch.pool_clocks AS k SET cost_ms = v_pool_cost WHERE k.pool = p_pool;
        END IF;
        -- A limit is for all pools together: the tenant may be out of line in others, or just being put there.
        FOR v_turn IN
            SELECT n.tenant FROM unnest(p_used_by) AS n (tenant)
            INNER JOIN orch.tenant_limits AS l ON l.tenant = n.tenant AND l.max_running_steps IS NOT NULL
            WHERE
                EXISTS (SELECT 1 FROM orch.tenant_queues AS q WHERE q.tenant = n.tenant AND q.pool <> p_pool)
        LOOP
            v_sole := pg_try_advisory_xact_lock(hashtext('orch.limit'), hashtext(v_turn));
            RETURN QUERY
            SELECT q.tenant::text, NULL::uuid, NULL::integer, q.pool::text FROM orch.tenant_queues AS q
            WHERE q.tenant = v_turn AND q.pool <> p_pool AND (q.held OR NOT v_sole);
        END LOOP;
        UPDATE orch.tenant_queues AS q
        SET held = FALSE, backlog = TRUE, virtual_time = greatest(q.virtual_time, v_clock)
        WHERE q.held AND q.tenant = ANY(p_used_by) AND q.pool = p_pool;
    END IF;
    IF cardinality(p_ready) > 0 THEN
        INSERT INTO orch.tenant_queues AS q (tenant, pool, virtual_time, backlog)
        SELECT n.tenant, p_pool, v_clock, TRUE FROM unnest(p_ready) AS n (tenant)
        ON CONFLICT ON CONSTRAINT tenant_queues_pk DO UPDATE
        SET backlog = TRUE, held = FALSE, virtual_time = greatest(q.virtual_time, v_clock)
        WHERE NOT q.backlog;
    END IF;
    SELECT coalesce(sum(w.slots), 0) INTO v_slots FROM orch.workers AS w
    WHERE p_pool = ANY(w.pools) AND orch.is_alive(w.seen_utc, w.heartbeat_ms);
    IF v_slots = 0 THEN
        -- What is sent now is there for the first worker.
        v_slots := 8;
    END IF;
    SELECT count(*) INTO v_out FROM orch.steps AS s
    WHERE s.pool = p_pool AND s.status = 'queued' AND s.sent_utc IS NOT NULL AND s.sent_utc < 'infinity';
    v_ahead := CASE WHEN v_pool_cost >= c_long_ms THEN v_slots ELSE 2 * v_slots END;
    IF v_out > v_ahead / 2 THEN
        RETURN;
    END IF;
    v_budget := v_ahead - v_out;
    WHILE v_budget > 0 LOOP
        SELECT q.tenant, q.virtual_time, q.cost_ms, coalesce(l.weight, 1), l.max_running_steps
        INTO v_turn, v_time, v_cost, v_weight, v_max
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
                -- two tenants could wait in a circle.
                IF NOT pg_try_advisory_xact_lock(hashtext('orch.limit'), hashtext(v_turn)) THEN
                    v_passed := array_append(v_passed, v_turn);
                    RETURN QUERY SELECT v_turn, NULL::uuid, NULL::integer, p_pool;
                    CONTINUE;
                END IF;
                v_room := v_max - orch.active_steps(v_turn);
                IF v_room > 0 THEN
                    v_limited := array_append(v_limited, v_turn);
                    v_rooms := array_append(v_rooms, v_room);
                    v_place := cardinality(v_limited);
                END IF;
            ELSE
                v_room := v_rooms[v_place];
            END IF;
        END IF;
        IF v_room <= 0 THEN
            UPDATE orch.tenant_queues AS q SET backlog = FALSE, held = TRUE
            WHERE q.tenant = v_turn AND q.pool = p_pool;
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
        RETURNING s.tenant::text, s.run_id, s.step_no, p_pool;
        GET DIAGNOSTICS v_picked = ROW_COUNT;
        v_clock := greatest(v_clock, v_time + greatest(v_picked - 1, 0) * v_cost / v_weight);
        IF v_picked = 0 THEN
            -- A step that becomes ready after this look is announced by its own pick.
            UPDATE orch.tenant_queues AS q SET backlog = FALSE WHERE q.tenant = v_turn AND q.pool = p_pool;
        ELSE
            UPDATE orch.tenant_queues AS q SET virtual_time = q.virtual_time + v_picked * v_cost / v_weight
            WHERE q.tenant = v_turn AND q.pool = p_pool;
            v_budget := v_budget - v_picked;
            IF v_max IS NOT NULL THEN
                v_rooms[v_place] := v_room - v_picked;
            END IF;
        END IF;
    END LOOP;
    IF v_known IS NULL THEN
        INSERT INTO orch.pool_clocks (pool, virtual_time) VALUES (p_pool, v_clock);
    ELSIF v_clock > v_known THEN
        UPDATE orch.pool_clocks AS k SET virtual_time = v_clock WHERE k.pool = p_pool;
    END IF;
END;
$$;

GRANT CREATE ON SCHEMA orch TO orch_service;
ALTER FUNCTION orch.pick(text, text [], text [], integer [], double precision []) OWNER TO orch_service;
REVOKE CREATE ON SCHEMA orch FROM orch_service;
REVOKE ALL ON FUNCTION orch.pick(text, text [], text [], integer [], double precision []) FROM public;
GRANT EXECUTE ON FUNCTION orch.pick(text, text [], text [], integer [], double precision [])
TO orch_api, orch_service;

-- What processes of the release before call. They report nothing, so a message costs what it was charged.
CREATE OR REPLACE FUNCTION orch.pick(p_pool text, p_tenant text)
RETURNS TABLE (tenant text, run_id uuid, step_no integer)
LANGUAGE sql SECURITY DEFINER SET search_path = orch, pg_temp
AS $$
    SELECT p.tenant, p.run_id, p.step_no
    FROM orch.pick(p_pool, array_remove(ARRAY[p_tenant], NULL), '{}', '{}', '{}') AS p
    WHERE p.step_no IS NOT NULL;
$$;
