"""The embedded servers: what a test, and an installation, gets."""

from __future__ import annotations

import psycopg2
import pytest
import redis

from shared import migrations
from shared.store.db import Database


def test_a_fresh_database_has_the_newest_schema(owner_url: str) -> None:
    assert migrations.check(owner_url) == []


def test_the_login_may_do_nothing_before_it_takes_a_role(database_url: str) -> None:
    connection = psycopg2.connect(database_url)
    with connection.cursor() as cur, pytest.raises(psycopg2.errors.InsufficientPrivilege):
        cur.execute("SELECT count(*) FROM orch.runs")
    connection.close()


def test_both_roles_are_open_to_the_login(api_db: Database, service_db: Database) -> None:
    for db, role in ((api_db, "orch_api"), (service_db, "orch_service")):
        with db.statement(None) as cur:
            cur.execute("SELECT current_user")
            assert cur.fetchone() == (role,)


def test_redis_refuses_to_forget_what_it_holds(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.dbsize() == 0
