"""Handlers, one module a resource."""
