-- The order of a tenant's events for those who read them as they come: (xid, event_id), so that a late
-- commit is never skipped, and a run's events in the order of their seq.
-- An event's xid was that of its transaction. One that touches several runs has its xid before it comes to
-- the second of them; had that run got events from a younger transaction meanwhile, they would have stood
-- behind its own. So no event of a run has a lower xid than the one before it. What a reader sees below the
-- oldest transaction under way is whole all the same: no event's xid is below that of its transaction.

ALTER TABLE orch.runs ADD COLUMN event_xid xid8;

-- Nothing that is committed has a higher xid than this transaction; nobody can write to runs beside it.
UPDATE orch.runs SET event_xid = pg_current_xact_id() WHERE status = 'running';

CREATE OR REPLACE FUNCTION orch.record(r orch.runs, p_first text, p_changes orch.step_change []) RETURNS text
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
    v_xid xid8 := greatest(pg_current_xact_id(), r.event_xid);
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
    INSERT INTO orch.events (tenant, run_id, seq, xid, line, hash)
    SELECT r.tenant, r.run_id, r.seq + e.n, v_xid, e.line, e.hash
    FROM unnest(v_lines, v_hashes) WITH ORDINALITY AS e (line, hash, n);
    IF v_status = 'running' THEN
        UPDATE orch.runs
        SET
            seq = v_seq, ledger_head = v_head, event_xid = v_xid,
            open_steps = v_open, failed_steps = v_failed
        WHERE tenant = r.tenant AND run_id = r.run_id;
    ELSE
        UPDATE orch.runs
        SET
            seq = v_seq, ledger_head = v_head, event_xid = v_xid,
            open_steps = v_open, failed_steps = v_failed,
            status = v_status, ended_utc = v_now, outputs_hash = orch.run_outputs_hash(r)
        WHERE tenant = r.tenant AND run_id = r.run_id;
    END IF;
    RETURN v_status;
END;
$$;
