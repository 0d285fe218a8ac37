-- What goes wrong is counted where all processes see it; and a row that a verb of the sweeper fails on is set
-- aside for a while, so that it keeps no other row from its turn.

-- Of the installation, not of a tenant: so no detail may tell of one.
CREATE TABLE orch.incidents (
    component text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    count bigint NOT NULL,
    first_utc timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_utc timestamptz NOT NULL DEFAULT clock_timestamp(),
    detail text,
    CONSTRAINT incidents_pk PRIMARY KEY (component, kind)
) WITH (fillfactor = 50);

CREATE TABLE orch.sweepers (
    sweeper_id text NOT NULL,
    heartbeat_ms integer NOT NULL,
    seen_utc timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT sweepers_pk PRIMARY KEY (sweeper_id)
) WITH (fillfactor = 50);

-- A worker says how often it says that it is alive. One of an earlier release does not, and had 30 seconds.
ALTER TABLE orch.workers ADD COLUMN heartbeat_ms integer NOT NULL DEFAULT 10000;

-- Whether who was seen last at that time is alive: three heartbeats may be missed.
CREATE FUNCTION orch.is_alive(p_seen timestamptz, p_heartbeat_ms integer) RETURNS boolean
LANGUAGE sql VOLATILE
RETURN p_seen > clock_timestamp() - make_interval(secs => 3 * p_heartbeat_ms / 1000.0);

GRANT SELECT, INSERT, UPDATE ON orch.incidents TO orch_service;
GRANT SELECT (component, kind, count) ON orch.incidents TO orch_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON orch.sweepers TO orch_service;
GRANT SELECT ON orch.sweepers TO orch_api;

-- What a verb failed on, and when it is tried again. A step_no of -1: the run as a whole.
CREATE TABLE orch.set_aside (
    tenant text COLLATE "C" NOT NULL,
    verb text COLLATE "C" NOT NULL,
    run_id uuid NOT NULL,
    step_no integer NOT NULL,
    reason text NOT NULL,
    tries integer NOT NULL DEFAULT 1,
    told boolean NOT NULL DEFAULT FALSE,
    first_utc timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_utc timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_utc timestamptz NOT NULL,
    CONSTRAINT set_aside_pk PRIMARY KEY (tenant, verb, run_id, step_no),
    CONSTRAINT set_aside_verb_known CHECK (verb IN ('wake', 'rescue', 'resend', 'decide', 'count'))
) WITH (fillfactor = 50);

ALTER TABLE orch.set_aside ENABLE ROW LEVEL SECURITY;
ALTER TABLE orch.set_aside FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON orch.set_aside TO orch_api
USING (tenant = current_setting('orch.tenant', TRUE))
WITH CHECK (tenant = current_setting('orch.tenant', TRUE));
CREATE POLICY all_tenants ON orch.set_aside TO orch_service USING (TRUE) WITH CHECK (TRUE);
GRANT SELECT, INSERT, UPDATE ON orch.set_aside TO orch_api, orch_service;
GRANT DELETE ON orch.set_aside TO orch_service;

-- Whether an error tells of the row, and not of the server, of a lock, or of a moment: those are everybody's.
CREATE FUNCTION orch.is_of_row(p_sqlstate text) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN left(p_sqlstate, 2) NOT IN ('08', '25', '40', '53', '55', '57', '58');

-- Set a row aside, for longer each time, up to a minute.
CREATE FUNCTION orch.put_aside(
    p_tenant text, p_verb text, p_run uuid, p_step integer, p_reason text
) RETURNS void
LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO orch.set_aside AS a (tenant, verb, run_id, step_no, reason, next_utc)
    VALUES (
        p_tenant, p_verb, p_run, p_step, left(p_reason, 300), clock_timestamp() + INTERVAL '1 second'
    )
    ON CONFLICT ON CONSTRAINT set_aside_pk DO UPDATE
    SET
        reason = excluded.reason, tries = a.tries + 1, last_utc = clock_timestamp(),
        next_utc = clock_timestamp()
        + least(INTERVAL '1 minute', INTERVAL '1 second' * 2 ^ least(a.tries, 6));
END;

CREATE FUNCTION orch.is_aside(p_tenant text, p_verb text, p_run uuid, p_step integer) RETURNS boolean
LANGUAGE sql VOLATILE
RETURN EXISTS (
    SELECT 1 FROM orch.set_aside AS a
    WHERE
        a.tenant = p_tenant AND a.verb = p_verb AND a.run_id = p_run AND a.step_no = p_step
        AND a.next_utc > clock_timestamp()
);

-- A row has had its turn, and all was well.
CREATE FUNCTION orch.take_back(p_tenant text, p_verb text, p_run uuid, p_step integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM orch.set_aside AS a
    WHERE a.tenant = p_tenant AND a.verb = p_verb AND a.run_id = p_run AND a.step_no = p_step;
END;
$$;

-- Raise unless the run's row is there, locked or not.
CREATE FUNCTION orch.must_exist(p_tenant text, p_run uuid) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM orch.runs AS q WHERE q.tenant = p_tenant AND q.run_id = p_run) THEN
        RAISE no_data_found USING MESSAGE = 'the run of the step is missing';
    END IF;
END;
$$;

-- Raise unless a worker could claim the queued step: none would say a word about it.
CREATE FUNCTION orch.must_be_claimable(p_tenant text, p_run uuid, p_step integer) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    r orch.runs;
BEGIN
    SELECT * INTO r FROM orch.runs AS q WHERE q.tenant = p_tenant AND q.run_id = p_run;
    IF NOT FOUND THEN
        RAISE no_data_found USING MESSAGE = 'the run of the step is missing';
    END IF;
    IF r.status <> 'running' THEN
        RAISE integrity_constraint_violation USING MESSAGE = 'the run of the queued step has ended';
    END IF;
    IF NOT EXISTS (
        SELECT 1 FROM orch.dag_steps AS d
        WHERE d.tenant = p_tenant AND d.dag_version_id = r.dag_version_id AND d.step_no = p_step
    ) THEN
        RAISE no_data_found USING MESSAGE = 'the definition of the step is missing';
    END IF;
END;
$$;

-- Steps of a pool whose message is out for too long, marked as sent again. One by one, each behind a
-- savepoint: there are few, and one that fails is set aside.
CREATE FUNCTION orch.resend(p_pool text, p_older_than_ms integer, p_limit integer)
RETURNS TABLE (tenant text, run_id uuid, step_no integer)
LANGUAGE plpgsql AS $$
DECLARE
    v_late record;
BEGIN
    FOR v_late IN
        SELECT s.tenant, s.run_id, s.step_no FROM orch.steps AS s
        WHERE
            s.pool = p_pool AND s.status = 'queued' AND s.sent_utc IS NOT NULL
            AND s.sent_utc < clock_timestamp() - make_interval(secs => p_older_than_ms / 1000.0)
            AND NOT orch.is_aside(s.tenant, 'resend', s.run_id, s.step_no)
        ORDER BY s.sent_utc LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    LOOP
        BEGIN
            PERFORM orch.must_be_claimable(v_late.tenant, v_late.run_id, v_late.step_no);
            UPDATE orch.steps AS s SET sent_utc = clock_timestamp()
            WHERE s.tenant = v_late.tenant AND s.run_id = v_late.run_id AND s.step_no = v_late.step_no;
            PERFORM orch.take_back(v_late.tenant, 'resend', v_late.run_id, v_late.step_no);
            RETURN QUERY SELECT v_late.tenant::text, v_late.run_id::uuid, v_late.step_no::integer;
        EXCEPTION
            WHEN OTHERS THEN
                IF NOT orch.is_of_row(sqlstate) THEN
                    RAISE;
                END IF;
                PERFORM orch.put_aside(
                    v_late.tenant, 'resend', v_late.run_id, v_late.step_no, sqlstate || ' ' || sqlerrm
                );
        END;
    END LOOP;
END;
$$;

-- Runs in which a step has waited too long for its when to be evaluated, the longest wait first. Who asks has
-- it evaluated; that it was asked for is noted here, so that a run whose evaluation ends its worker is asked
-- for ever less often. A run that got on since it was asked for begins anew.
CREATE FUNCTION orch.ask_undecided(p_older_than_ms integer, p_limit integer)
RETURNS TABLE (tenant text, run_id uuid)
LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO orch.set_aside AS a (tenant, verb, run_id, step_no, reason, first_utc, next_utc)
    SELECT
        w.tenant, 'decide', w.run_id, -1, 'asked for, and not decided', w.since,
        clock_timestamp() + make_interval(secs => p_older_than_ms / 1000.0)
    FROM (
        SELECT u.tenant, u.run_id, min(u.undecided_utc) AS since
        FROM (
            SELECT s.tenant, s.run_id, s.undecided_utc FROM orch.steps AS s
            WHERE
                s.undecided_utc IS NOT NULL
                AND s.undecided_utc < clock_timestamp() - make_interval(secs => p_older_than_ms / 1000.0)
                AND NOT orch.is_aside(s.tenant, 'decide', s.run_id, -1)
            ORDER BY s.undecided_utc LIMIT p_limit
        ) AS u
        GROUP BY u.tenant, u.run_id
    ) AS w
    ORDER BY w.tenant, w.run_id
    ON CONFLICT ON CONSTRAINT set_aside_pk DO UPDATE
    SET
        first_utc = excluded.first_utc, last_utc = clock_timestamp(),
        tries = CASE WHEN excluded.first_utc > a.last_utc THEN 1 ELSE a.tries + 1 END,
        next_utc = CASE
            WHEN excluded.first_utc > a.last_utc THEN excluded.next_utc
            ELSE clock_timestamp() + least(
                INTERVAL '1 minute', make_interval(secs => p_older_than_ms / 1000.0) * 2 ^ least(a.tries, 6)
            )
        END
    RETURNING a.tenant, a.run_id;
END;

-- What 0009 calls count_events_of, for a batch. One event that cannot be counted would keep all that come
-- after it, and all tenants after this one, from being counted: so the batch is halved until the event is
-- alone, which is then passed over and set aside. The mark is held meanwhile, so that it is no other event.
ALTER FUNCTION orch.count_events_of(text, integer) RENAME TO count_batch;

CREATE FUNCTION orch.count_events_of(p_tenant text, p_limit integer) RETURNS integer
LANGUAGE plpgsql SET enable_sort = off AS $$
DECLARE
    v_batch integer := p_limit;
    v_asked integer;
    v_got integer;
    v_read integer := 0;
BEGIN
    WHILE v_read < p_limit LOOP
        v_asked := least(v_batch, p_limit - v_read);
        BEGIN
            v_got := orch.count_batch(p_tenant, v_asked);
            v_read := v_read + v_got;
            EXIT WHEN v_got < v_asked;
        EXCEPTION
            WHEN OTHERS THEN
                IF NOT orch.is_of_row(sqlstate) THEN
                    RAISE;
                END IF;
                IF v_asked > 1 THEN
                    INSERT INTO orch.metric_marks (tenant) VALUES (p_tenant) ON CONFLICT DO NOTHING;
                    PERFORM 1 FROM orch.metric_marks AS m WHERE m.tenant = p_tenant FOR UPDATE;
                    v_batch := v_asked / 2;
                ELSE
                    PERFORM orch.pass_over_event(p_tenant, sqlstate || ' ' || sqlerrm);
                    v_read := v_read + 1;
                    v_batch := p_limit;
                END IF;
        END;
    END LOOP;
    RETURN v_read;
END;
$$;

-- Move a tenant's mark beyond the next event, and set that aside.
CREATE FUNCTION orch.pass_over_event(p_tenant text, p_reason text) RETURNS void
LANGUAGE plpgsql SET enable_sort = off AS $$
DECLARE
    v_mark orch.metric_marks;
    v_event record;
BEGIN
    INSERT INTO orch.metric_marks (tenant) VALUES (p_tenant) ON CONFLICT DO NOTHING;
    SELECT * INTO v_mark FROM orch.metric_marks AS m WHERE m.tenant = p_tenant FOR UPDATE;
    SELECT e.xid, e.event_id, e.run_id, e.seq INTO STRICT v_event FROM orch.events AS e
    WHERE
        e.tenant = p_tenant AND (e.xid, e.event_id) > (v_mark.xid, v_mark.event_id)
        AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY e.xid, e.event_id LIMIT 1;
    UPDATE orch.metric_marks AS m SET xid = v_event.xid, event_id = v_event.event_id WHERE m.tenant = p_tenant;
    PERFORM orch.put_aside(p_tenant, 'count', v_event.run_id, v_event.seq, p_reason);
END;
$$;
