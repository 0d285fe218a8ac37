-- The schema itself.

-- name: revision
-- The newest migration that has run.
SELECT v.version_num FROM orch.alembic_version AS v;
