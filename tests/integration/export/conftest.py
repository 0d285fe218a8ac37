"""An export of a real ledger, made once for the tests that only read it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.store.db import Database
from tests.support.exported import Export, exported, fill
from tests.support.ledger import Ledger
from tests.support.servers import Servers


@pytest.fixture(scope="package")
def filled(servers: Servers) -> Iterator[Ledger]:
    """A ledger with a run of every kind, which the tests leave as it is."""
    with servers.new_database() as name:
        api = Database(servers.url(name), role="orch_api", size=4, application_name="test-api")
        service = Database(servers.url(name), role="orch_service", size=2, application_name="test-service")
        ledger = Ledger(api=api, service=service)
        fill(ledger)
        yield ledger
        api.close()
        service.close()


@pytest.fixture(scope="package")
def export(filled: Ledger) -> Export:
    return exported(filled)


@pytest.fixture
def ledger(api_db: Database, service_db: Database) -> Ledger:
    """A ledger of a test's own, empty."""
    return Ledger(api=api_db, service=service_db)
