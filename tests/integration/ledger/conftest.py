"""A ledger of one tenant on a fresh database; when the test is over, the invariants must hold."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2
import pytest

from shared.store.db import Database
from tests.support.invariants import check_invariants, check_totals
from tests.support.ledger import Ledger


@pytest.fixture
def ledger(api_db: Database, service_db: Database, owner_url: str) -> Iterator[Ledger]:
    yield Ledger(api=api_db, service=service_db)
    connection = psycopg2.connect(owner_url)
    try:
        with connection.cursor() as cur:
            check_invariants(cur, ended=False)
            check_totals(cur)
    finally:
        connection.close()
