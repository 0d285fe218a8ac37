"""A private PostgreSQL and Redis from Python packages, on unix sockets: for `orch up` and for the tests."""
