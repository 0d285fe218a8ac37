-- Two roles, and row-level security that binds even the owner of the tables.
-- orch_api serves requests: it sees the tenant of its transaction only, and no tenant when none is set.
-- orch_service is the worker's and the sweeper's: it sees all tenants.

DO $$
DECLARE
    role_name text;
    -- From PostgreSQL 16 on, who creates a role is a member that may not yet act as it.
    needed text := CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['orch_api', 'orch_service'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL; -- roles belong to the cluster
        END;
        IF NOT pg_has_role(current_user, role_name, needed) THEN
            EXECUTE format('GRANT %I TO %I', role_name, current_user);
        END IF;
    END LOOP;
END;
$$;

GRANT USAGE ON SCHEMA orch TO orch_api, orch_service;

DO $$
DECLARE
    table_name text;
BEGIN
    FOR table_name IN
        SELECT c.table_name FROM information_schema.columns AS c
        WHERE c.table_schema = 'orch' AND c.column_name = 'tenant'
    LOOP
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
    END LOOP;
END;
$$;

-- Nobody may delete from the ledger, and nobody may update an event.
GRANT INSERT ON orch.dag_versions, orch.dag_steps, orch.dag_edges TO orch_api;
GRANT UPDATE (disabled_utc) ON orch.dag_versions TO orch_api;
GRANT INSERT ON orch.runs, orch.run_inputs, orch.steps, orch.events TO orch_api;
GRANT UPDATE ON orch.runs, orch.steps TO orch_api;

GRANT INSERT ON orch.attempts, orch.events, orch.artifacts, orch.artifact_refs, orch.tenant_queues
TO orch_service;
GRANT UPDATE ON orch.runs, orch.steps, orch.attempts, orch.tenant_queues TO orch_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON orch.workers TO orch_service;
GRANT SELECT ON orch.workers TO orch_api;
