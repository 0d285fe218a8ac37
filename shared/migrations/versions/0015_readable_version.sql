-- Every process reads at its start which migration the schema is at.

GRANT SELECT ON orch.alembic_version TO orch_api, orch_service;
