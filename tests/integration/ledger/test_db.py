from __future__ import annotations

import psycopg2.errors
import pytest

from shared.domain.models import TenantId
from shared.errors import StoreUnavailable
from shared.store.db import Database, Joined

ACME = TenantId("acme")


def test_a_snapshot_reads_several_queries_in_turns_and_sees_one_moment(api_db: Database) -> None:
    query = "SELECT n FROM generate_series(1, %(most)s) AS n ORDER BY n"
    with api_db.snapshot(ACME) as snapshot:
        first = snapshot.stream(query, {"most": 5}, batch=2)
        second = snapshot.stream(query, {"most": 3}, batch=2)
        assert [next(first), next(second), *first, *second] == [
            (1,),
            (1,),
            (2,),
            (3,),
            (4,),
            (5,),
            (2,),
            (3,),
        ]
        snapshot.execute("SELECT current_setting('orch.tenant'), current_setting('transaction_isolation')")
        assert snapshot.fetchall() == [("acme", "repeatable read")]
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            snapshot.execute("DELETE FROM orch.events")
    with api_db.statement(None) as cur:
        cur.execute("SELECT current_setting('orch.tenant', TRUE)")
        assert cur.fetchall() == [("",)]


def test_a_snapshot_whose_reader_goes_away_gives_its_connection_back(database_url: str) -> None:
    single = Database(database_url, role="orch_api", size=1, application_name="test", wait_seconds=0.1)

    def half_read() -> None:
        with single.snapshot(ACME) as snapshot:
            rows = snapshot.stream("SELECT n FROM generate_series(1, 10) AS n", batch=3)
            assert next(rows) == (1,)
            with pytest.raises(StoreUnavailable), single.statement(ACME):
                pass
            raise ConnectionResetError

    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            half_read()
    single.close()


def test_what_a_joined_verb_did_can_be_undone_by_itself(api_db: Database) -> None:
    with api_db.transaction(ACME) as cur:
        cur.execute("SELECT set_config('orch.mark', 'before', TRUE)")
        joined = Joined(cur, ACME)
        with joined.transaction(ACME) as inner:
            inner.execute("SELECT set_config('orch.mark', %(mark)s, TRUE)", {"mark": "within"})
        joined.undo()
        cur.execute("SELECT current_setting('orch.mark')")
        assert cur.fetchall() == [("before",)]
        with pytest.raises(LookupError), joined.statement(TenantId("other")):
            pass
