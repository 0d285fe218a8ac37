"""The REST API: load, call one service, dump."""
