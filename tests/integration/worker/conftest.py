"""Fixtures of the worker's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.worker.fleet import Fleet, new_fleet


@pytest.fixture
def fleet(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Fleet]:
    """A ledger, a Redis, and no processes yet."""
    with new_fleet(tmp_path, database_url=database_url, redis_url=redis_url) as made:
        yield made
