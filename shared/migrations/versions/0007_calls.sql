-- What is kept of a call that changes something, in the transaction of the change: the answer under its
-- idempotency key, and who did it.

CREATE TABLE orch.idempotency_keys (
    tenant text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    method text COLLATE "C" NOT NULL,
    path text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    status integer NOT NULL,
    headers json NOT NULL,
    body text NOT NULL,
    created_utc timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT idempotency_keys_pk PRIMARY KEY (tenant, key, method, path),
    CONSTRAINT idempotency_keys_fingerprint_size CHECK (octet_length(fingerprint) = 32),
    CONSTRAINT idempotency_keys_no_5xx CHECK (status BETWEEN 200 AND 499)
);

-- For the sweeper, which removes what has expired.
CREATE INDEX idempotency_keys_by_age ON orch.idempotency_keys (created_utc);

-- Append-only: nobody may update or delete. Refused calls of authenticated callers stand here, too.
CREATE TABLE orch.audit (
    tenant text COLLATE "C" NOT NULL,
    audit_id uuid NOT NULL,
    at_utc timestamptz NOT NULL,
    subject text NOT NULL,
    action text COLLATE "C" NOT NULL,
    object text NOT NULL,
    reason text,
    trace_id text NOT NULL,
    outcome text NOT NULL,
    status integer NOT NULL,
    code text,
    CONSTRAINT audit_pk PRIMARY KEY (tenant, audit_id),
    CONSTRAINT audit_outcome_known CHECK (outcome IN ('accepted', 'replayed', 'refused'))
);

CREATE INDEX audit_by_time ON orch.audit (tenant, at_utc DESC, audit_id DESC);
CREATE INDEX audit_by_action ON orch.audit (tenant, action, at_utc DESC, audit_id DESC);

-- How long a key is remembered: an older row counts as none.
CREATE FUNCTION orch.idempotency_window() RETURNS interval
LANGUAGE sql IMMUTABLE
RETURN INTERVAL '24 hours';

-- Begin a call under its key. Busy: another transaction is serving the same key just now. Otherwise the
-- key is ours until the transaction ends, and what was kept of its first call comes back, if there was one.
-- The lookup is a statement of its own behind the lock, so that it sees what the call before has committed.
CREATE FUNCTION orch.begin_call(p_tenant text, p_key text, p_method text, p_path text)
RETURNS TABLE (busy boolean, fingerprint bytea, status integer, headers json, body text)
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(
        hashtextextended(p_tenant || ' ' || p_method || ' ' || p_path || ' ' || p_key, 7)
    ) THEN
        RETURN QUERY SELECT TRUE, NULL::bytea, NULL::integer, NULL::json, NULL::text;
        RETURN;
    END IF;
    RETURN QUERY
    SELECT FALSE, k.fingerprint, k.status, k.headers, k.body FROM orch.idempotency_keys AS k
    WHERE
        k.tenant = p_tenant AND k.key = p_key AND k.method = p_method AND k.path = p_path
        AND k.created_utc > clock_timestamp() - orch.idempotency_window();
    IF NOT FOUND THEN
        RETURN QUERY SELECT FALSE, NULL::bytea, NULL::integer, NULL::json, NULL::text;
    END IF;
END;
$$;

-- End a call: keep its answer and add its line to the audit trail. A key that another call has answered
-- meanwhile is a unique_violation, and with it the whole call is undone.
CREATE FUNCTION orch.end_call(
    p_tenant text, p_key text, p_method text, p_path text, p_fingerprint bytea,
    p_status integer, p_headers json, p_body text,
    p_audit_id uuid, p_at timestamptz, p_subject text, p_action text, p_object text, p_reason text,
    p_trace text, p_outcome text, p_code text
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO orch.idempotency_keys AS k (tenant, key, method, path, fingerprint, status, headers, body)
    VALUES (p_tenant, p_key, p_method, p_path, p_fingerprint, p_status, p_headers, p_body)
    ON CONFLICT ON CONSTRAINT idempotency_keys_pk DO UPDATE
    SET
        fingerprint = excluded.fingerprint, status = excluded.status, headers = excluded.headers,
        body = excluded.body, created_utc = excluded.created_utc
    WHERE k.created_utc <= clock_timestamp() - orch.idempotency_window();
    IF NOT FOUND THEN
        RAISE unique_violation USING MESSAGE = 'the key was answered meanwhile';
    END IF;
    INSERT INTO orch.audit (
        tenant, audit_id, at_utc, subject, action, object, reason, trace_id, outcome, status, code
    )
    VALUES (
        p_tenant, p_audit_id, date_trunc('milliseconds', p_at), p_subject, p_action, p_object, p_reason,
        p_trace, p_outcome, p_status, p_code
    );
END;
$$;

DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['idempotency_keys', 'audit'] LOOP
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
        EXECUTE format('GRANT SELECT ON orch.%I TO orch_api, orch_service', table_name);
        EXECUTE format('GRANT INSERT ON orch.%I TO orch_api', table_name);
    END LOOP;
END;
$$;

-- An expired key that was not yet removed is written over.
GRANT UPDATE ON orch.idempotency_keys TO orch_api;
GRANT DELETE ON orch.idempotency_keys TO orch_service;
