"""Regular expressions as JSON Schemas write them."""

from __future__ import annotations


def exactly(pattern: str) -> str:
    """Make a pattern that a whole text has to match; in a JSON Schema, a part of it would do."""
    return f"^({pattern})$"
