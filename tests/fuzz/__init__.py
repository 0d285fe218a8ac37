"""Hostile requests by the hundred thousand against a whole stack: ``python -m tests.fuzz``."""
