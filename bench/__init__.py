"""How fast runs are through the REST API, beside Celery's own canvas on the same machine."""
