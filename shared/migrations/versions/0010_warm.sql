-- Requests to have definitions and plugins loaded by every worker, and what each worker answers. Workers read
-- them from here, since Redis may be away; both are gone after some minutes.

CREATE TABLE orch.warm_requests (
    tenant text COLLATE "C" NOT NULL,
    warm_id uuid NOT NULL,
    dags json NOT NULL,
    plugins text [] NOT NULL,
    requested_utc timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT warm_requests_pk PRIMARY KEY (tenant, warm_id)
);

-- What workers ask for once a second, and the sweeper when it removes old ones.
CREATE INDEX warm_requests_by_time ON orch.warm_requests (requested_utc);

CREATE TABLE orch.warm_reports (
    tenant text COLLATE "C" NOT NULL,
    warm_id uuid NOT NULL,
    worker_id text NOT NULL,
    dags json NOT NULL,
    plugins json NOT NULL,
    CONSTRAINT warm_reports_pk PRIMARY KEY (tenant, warm_id, worker_id),
    CONSTRAINT warm_reports_request FOREIGN KEY (tenant, warm_id)
    REFERENCES orch.warm_requests (tenant, warm_id) ON DELETE CASCADE
);

DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['warm_requests', 'warm_reports'] LOOP
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

GRANT INSERT ON orch.warm_requests TO orch_api;
GRANT INSERT ON orch.warm_reports TO orch_service;
GRANT DELETE ON orch.warm_requests TO orch_service;
