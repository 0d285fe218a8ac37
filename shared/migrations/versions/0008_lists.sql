-- An index for each combination of filters that a list takes: else a page of what is rare, among a million
-- of what is not, reads the million. In each, the filters come first and then the order of the list.
--
-- All are hidden: their conditions are always true, and only the list repeats the one that it needs. So the
-- planner has no choice, which it would make by statistics that are old or not there.

CREATE INDEX runs_by_dag ON orch.runs (tenant, dag_id, started_utc DESC, run_id)
WHERE dag_version_id > 0;

-- The only indexes of runs with a column that changes: once a run, when it ends.
CREATE INDEX runs_by_status ON orch.runs (tenant, status, started_utc DESC, run_id)
WHERE trace_id <> '';
CREATE INDEX runs_by_dag_and_status ON orch.runs (tenant, dag_id, status, started_utc DESC, run_id)
WHERE dag_version <> '';

CREATE INDEX dag_versions_active ON orch.dag_versions (tenant, dag_id, precedence DESC, version DESC)
WHERE disabled_utc IS NULL;
CREATE INDEX dag_versions_disabled ON orch.dag_versions (tenant, dag_id, precedence DESC, version DESC)
WHERE disabled_utc IS NOT NULL;
