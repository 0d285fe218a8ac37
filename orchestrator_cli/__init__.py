"""orch: the command line."""
