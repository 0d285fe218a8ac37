"""One function a verb, each one transaction. The API and the worker change the ledger through these only."""
