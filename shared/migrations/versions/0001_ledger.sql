-- The ledger: DAG versions, runs, steps, attempts, events, artifacts, and what dispatch needs.
-- Identifiers are compared byte by byte (COLLATE "C"), so that SQL sorts as the domain does.
--
-- The transitions keep their plans for the life of a connection, from when the tables were empty and
-- all indexes looked alike. So a lookup by key must have one usable index: every other index is
-- partial, on a condition that only the queries it is for repeat (always true where it says "hidden").
-- Nothing is ever deleted and only functions insert, so the hot tables have no foreign keys to check.

-- States are domains: their checks are kept ready in the session, where those of a table are read anew by
-- each statement that writes to it. What else must hold of a row is held by the transitions and their tests.
CREATE DOMAIN orch.run_status AS text
CONSTRAINT run_status_known CHECK (value IN ('running', 'completed', 'failed', 'cancelled'));

CREATE DOMAIN orch.step_status AS text
CONSTRAINT step_status_known CHECK (
    value IN ('pending', 'queued', 'running', 'retrying', 'succeeded', 'failed', 'skipped', 'cancelled')
);

CREATE DOMAIN orch.attempt_status AS text
CONSTRAINT attempt_status_known CHECK (
    value IN ('running', 'succeeded', 'failed', 'cancelled', 'lost', 'released')
);

CREATE DOMAIN orch.run_on AS text
CONSTRAINT run_on_known CHECK (value IN ('success', 'failure', 'always'));

CREATE TABLE orch.dag_versions (
    tenant text COLLATE "C" NOT NULL,
    dag_version_id bigint GENERATED ALWAYS AS IDENTITY,
    dag_id text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    precedence text COLLATE "C" NOT NULL,
    spec_hash bytea NOT NULL,
    step_count integer NOT NULL CHECK (step_count > 0),
    metadata json NOT NULL,
    definition json NOT NULL,
    signature json,
    created_utc timestamptz NOT NULL DEFAULT date_trunc('milliseconds', clock_timestamp()),
    created_by text NOT NULL,
    disabled_utc timestamptz,
    CONSTRAINT dag_versions_pk PRIMARY KEY (tenant, dag_version_id),
    CONSTRAINT dag_versions_tenant_form CHECK (tenant ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    CONSTRAINT dag_versions_dag_id_form CHECK (dag_id ~ '^[a-z0-9][a-z0-9._-]{0,127}$'),
    CONSTRAINT dag_versions_spec_hash_size CHECK (octet_length(spec_hash) = 32)
);

-- Hidden from lookups by key.
CREATE UNIQUE INDEX dag_versions_name ON orch.dag_versions (tenant, dag_id, version) WHERE step_count > 0;
-- Serves the list (by DAG, newest version first) and the search for the highest active version. Hidden.
CREATE INDEX dag_versions_by_precedence
ON orch.dag_versions (tenant, dag_id, precedence DESC, version DESC) WHERE step_count > 0;

CREATE TABLE orch.dag_steps (
    tenant text COLLATE "C" NOT NULL,
    dag_version_id bigint NOT NULL,
    step_no integer NOT NULL,
    step_id text COLLATE "C" NOT NULL,
    uses text NOT NULL,
    params json NOT NULL,
    when_expr text,
    run_on orch.run_on NOT NULL,
    disabled boolean NOT NULL,
    max_attempts integer NOT NULL,
    initial_delay_ms integer NOT NULL,
    max_delay_ms integer NOT NULL,
    multiplier double precision NOT NULL,
    timeout_ms bigint NOT NULL,
    pool text COLLATE "C" NOT NULL,
    predecessors integer NOT NULL,
    reads_inputs boolean NOT NULL,
    refs integer [] NOT NULL,
    CONSTRAINT dag_steps_pk PRIMARY KEY (tenant, dag_version_id, step_no),
    CONSTRAINT dag_steps_step_id_form CHECK (step_id ~ '^[a-z0-9][a-z0-9._-]{0,127}$')
);

-- Hidden from lookups by step_no.
CREATE UNIQUE INDEX dag_steps_name ON orch.dag_steps (tenant, dag_version_id, step_id) WHERE step_no >= 0;

-- The edges of a version are those of each of its runs; a run stores none.
CREATE TABLE orch.dag_edges (
    tenant text COLLATE "C" NOT NULL,
    dag_version_id bigint NOT NULL,
    from_no integer NOT NULL,
    to_no integer NOT NULL,
    CONSTRAINT dag_edges_pk PRIMARY KEY (tenant, dag_version_id, from_no, to_no),
    CONSTRAINT dag_edges_forward CHECK (from_no < to_no)
);

CREATE TABLE orch.runs (
    tenant text COLLATE "C" NOT NULL,
    run_id uuid NOT NULL,
    dag_version_id bigint NOT NULL,
    dag_id text COLLATE "C" NOT NULL,
    dag_version text COLLATE "C" NOT NULL,
    status orch.run_status NOT NULL,
    trace_id text NOT NULL,
    run_token text COLLATE "C",
    inputs_hash bytea NOT NULL,
    outputs_hash bytea,
    created_by text NOT NULL,
    started_utc timestamptz NOT NULL,
    ended_utc timestamptz,
    cancel_requested_utc timestamptz,
    cancel_reason text,
    step_count integer NOT NULL,
    open_steps integer NOT NULL,
    failed_steps integer NOT NULL DEFAULT 0,
    seq integer NOT NULL DEFAULT 0,
    ledger_head bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    CONSTRAINT runs_pk PRIMARY KEY (tenant, run_id),
    CONSTRAINT runs_version FOREIGN KEY (tenant, dag_version_id)
    REFERENCES orch.dag_versions (tenant, dag_version_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

CREATE UNIQUE INDEX runs_by_token ON orch.runs (tenant, run_token) WHERE run_token IS NOT NULL;
-- Hidden from lookups by key.
CREATE INDEX runs_by_start ON orch.runs (tenant, started_utc DESC, run_id) WHERE step_count > 0;

-- Apart from the run's row, which every transition rewrites.
CREATE TABLE orch.run_inputs (
    tenant text COLLATE "C" NOT NULL,
    run_id uuid NOT NULL,
    inputs json NOT NULL,
    CONSTRAINT run_inputs_pk PRIMARY KEY (tenant, run_id),
    CONSTRAINT run_inputs_run FOREIGN KEY (tenant, run_id) REFERENCES orch.runs (tenant, run_id)
);

CREATE TABLE orch.steps (
    tenant text COLLATE "C" NOT NULL,
    run_id uuid NOT NULL,
    step_no integer NOT NULL,
    status orch.step_status NOT NULL,
    pool text COLLATE "C" NOT NULL,
    waiting integer NOT NULL,
    upstream_failed boolean NOT NULL DEFAULT FALSE,
    attempt integer NOT NULL DEFAULT 0,
    lost integer NOT NULL DEFAULT 0,
    released integer NOT NULL DEFAULT 0,
    undecided_utc timestamptz,
    queued_utc timestamptz,
    sent_utc timestamptz,
    due_utc timestamptz,
    lease_until timestamptz,
    worker_id text,
    started_utc timestamptz,
    ended_utc timestamptz,
    error_code text,
    error_message text,
    inputs_hash bytea,
    outputs_hash bytea,
    outputs json,
    CONSTRAINT steps_pk PRIMARY KEY (tenant, run_id, step_no)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

-- What dispatch picks from: ready, and no message is out.
CREATE INDEX steps_ready ON orch.steps (tenant, pool, queued_utc, run_id, step_no)
WHERE status = 'queued' AND sent_utc IS NULL;
-- The messages that are out; a lost one is sent again by its age.
CREATE INDEX steps_sent ON orch.steps (pool, sent_utc)
WHERE status = 'queued' AND sent_utc IS NOT NULL;
CREATE INDEX steps_leased ON orch.steps (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX steps_due ON orch.steps (due_utc) WHERE due_utc IS NOT NULL;
CREATE INDEX steps_undecided ON orch.steps (undecided_utc) WHERE undecided_utc IS NOT NULL;

CREATE TABLE orch.attempts (
    tenant text COLLATE "C" NOT NULL,
    run_id uuid NOT NULL,
    step_no integer NOT NULL,
    attempt integer NOT NULL,
    status orch.attempt_status NOT NULL,
    worker_id text NOT NULL,
    started_utc timestamptz NOT NULL,
    ended_utc timestamptz,
    error_code text,
    error_message text,
    logs_ref bytea,
    outputs_hash bytea,
    CONSTRAINT attempts_pk PRIMARY KEY (tenant, run_id, step_no, attempt)
) WITH (fillfactor = 80);

-- Append-only. The pair (xid, event_id) orders events so that a late commit is never skipped:
-- a reader takes only rows whose xid is below pg_snapshot_xmin(pg_current_snapshot()).
CREATE TABLE orch.events (
    tenant text COLLATE "C" NOT NULL,
    run_id uuid NOT NULL,
    seq integer NOT NULL,
    event_id bigint GENERATED ALWAYS AS IDENTITY,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    line text NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT events_pk PRIMARY KEY (tenant, run_id, seq)
);

CREATE INDEX events_by_commit ON orch.events (tenant, xid, event_id);

-- Which tenant owns which bytes. The bytes are shared in the artifact store, the right to read them is not.
CREATE TABLE orch.artifacts (
    tenant text COLLATE "C" NOT NULL,
    sha256 bytea NOT NULL,
    size_bytes bigint NOT NULL,
    content_type text NOT NULL,
    created_utc timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT artifacts_pk PRIMARY KEY (tenant, sha256),
    CONSTRAINT artifacts_sha256_size CHECK (octet_length(sha256) = 32)
);

CREATE TABLE orch.artifact_refs (
    tenant text COLLATE "C" NOT NULL,
    run_id uuid NOT NULL,
    step_no integer NOT NULL,
    attempt integer NOT NULL,
    name text COLLATE "C" NOT NULL,
    sha256 bytea NOT NULL,
    CONSTRAINT artifact_refs_pk PRIMARY KEY (tenant, run_id, step_no, attempt, name),
    CONSTRAINT artifact_refs_artifact FOREIGN KEY (tenant, sha256)
    REFERENCES orch.artifacts (tenant, sha256)
);

-- A tenant's turn in a pool: dispatch serves the smallest virtual time among those with a backlog.
CREATE TABLE orch.tenant_queues (
    tenant text COLLATE "C" NOT NULL,
    pool text COLLATE "C" NOT NULL,
    virtual_time double precision NOT NULL DEFAULT 0,
    backlog boolean NOT NULL DEFAULT TRUE,
    CONSTRAINT tenant_queues_pk PRIMARY KEY (tenant, pool)
) WITH (fillfactor = 50);

CREATE INDEX tenant_queues_turn ON orch.tenant_queues (pool, virtual_time, tenant) WHERE backlog;

-- Of the installation, not of a tenant.
CREATE TABLE orch.workers (
    worker_id text NOT NULL,
    pools text [] NOT NULL,
    slots integer NOT NULL,
    started_utc timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_utc timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT workers_pk PRIMARY KEY (worker_id),
    CONSTRAINT workers_slots_positive CHECK (slots > 0)
) WITH (fillfactor = 50);
