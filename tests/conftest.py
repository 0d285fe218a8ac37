"""Fixtures: one PostgreSQL and one Redis a session, a fresh migrated database a test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from shared.embedded import postgres
from shared.store.db import Database
from tests.support.servers import Servers, private_servers


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", type=int, help="calls of each operation (make openapi)")
    parser.addoption("--races", type=int, default=60, help="cancellations that race with completions")
    parser.addoption("--ends", type=int, default=2, help="ends of workers and the API under load")
    parser.addoption(
        "--stream-runs", type=int, default=1_000, help="runs that streams are held to, with faults"
    )
    parser.addoption("--stream-seed", help="what decides when those streams' clients leave, and what fails")


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """PostgreSQL and Redis, started when the first test asks for them."""
    with private_servers() as running:
        yield running


@pytest.fixture
def database(servers: Servers) -> Iterator[str]:
    """Name of a fresh database with the newest schema."""
    with servers.new_database() as name:
        yield name


@pytest.fixture
def database_url(servers: Servers, database: str) -> str:
    """The database as the application's login, which may take the two roles and is no superuser."""
    return servers.url(database)


@pytest.fixture
def owner_url(servers: Servers, database: str) -> str:
    """The database as its owner, a superuser, whom row-level security does not bind."""
    return servers.url(database, user=postgres.OWNER)


@pytest.fixture
def redis_url(servers: Servers) -> Iterator[str]:
    """An empty Redis database."""
    with servers.new_redis_url() as url:
        yield url


@pytest.fixture
def api_db(database_url: str) -> Iterator[Database]:
    """Connections in the role of the API."""
    db = Database(database_url, role="orch_api", size=8, application_name="test-api")
    yield db
    db.close()


@pytest.fixture
def service_db(database_url: str) -> Iterator[Database]:
    """Connections in the role of the worker and the sweeper."""
    db = Database(database_url, role="orch_service", size=8, application_name="test-service")
    yield db
    db.close()


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Tell a measurement to whoever watches the tests."""

    def write(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")

    return write
