"""Whatever is added while somebody walks through a list's pages: they miss nothing and see nothing twice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.states import RunStatus
from shared.embedded import postgres
from tests.integration.api.conftest import Api, running
from tests.support.rows import Rows, rows
from tests.support.servers import Servers
from tests.support.tokens import Signer

_tenants = itertools.count(1)
Item = tuple[object, ...]
"""An item of a list as this test has it: what the filters look at, and what orders it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """An API, and the way to add to its ledger what the verbs would not."""

    api: Api
    rows: Rows


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory, signer: Signer, servers: Servers) -> Iterator[Ledger]:
    with (
        servers.new_database() as name,
        servers.new_redis_url() as redis_url,
        running(tmp_path_factory.mktemp("api"), signer, servers.url(name), redis_url) as api,
        rows(servers.url(name, user=postgres.OWNER)) as written,
    ):
        yield Ledger(api=api, rows=written)


def walk(api: Api, path: str, size: int, between: Iterator[object]) -> list[str]:
    """Read all pages; have something happen before each but the first. Give the names of the items."""
    seen: list[str] = []
    token = ""
    while True:
        body = api.get(f"{path}page_size={size}{token}").get_json()
        seen += [name_of(item) for item in body["items"]]
        assert len(seen) == len(set(seen)), "seen twice"
        if "next_page_token" not in body:
            return seen
        token = f"&page_token={body['next_page_token']}"
        next(between, None)


def name_of(item: dict[str, object]) -> str:
    return str(item.get("runId") or item.get("auditId") or f"{item['dagId']} {item['version']}")


def holds(
    api: Api,
    path: str,
    size: int,
    add: Callable[[Item], str],
    key: Callable[[str, Item], Item],
    wanted: Callable[[Item], bool],
    before: list[Item],
    during: list[Item],
) -> None:
    """Add ``before``, walk while ``during`` is being added, and look at what was seen."""
    there = {add(item): item for item in before}
    throughout = dict(there)

    def adding() -> Iterator[None]:
        for item in during:
            there[add(item)] = item
            yield

    seen = walk(api, path, size, adding())
    assert set(seen) <= {name for name, item in there.items() if wanted(item)}
    assert set(seen) >= {name for name, item in throughout.items() if wanted(item)}
    assert seen == sorted(seen, key=lambda name: key(name, there[name]))


few = settings(max_examples=60, deadline=None)
run = st.tuples(st.sampled_from("ab"), st.sampled_from(list(RunStatus)), st.integers(0, 5))
RANK = ["2.0.0", "2.0.0-rc.1", "1.10.0", "1.9.0"]
version = st.tuples(st.sampled_from("abc"), st.sampled_from(RANK), st.booleans())
line = st.tuples(st.sampled_from(["run.start", "dag.publish"]), st.integers(0, 5))
sizes = st.integers(1, 4)


@few
@given(
    before=st.lists(run, max_size=12),
    during=st.lists(run, max_size=8),
    size=sizes,
    dag_id=st.sampled_from([None, "a"]),
    status=st.sampled_from([None, RunStatus.RUNNING]),
    span=st.sampled_from([None, (1, 4)]),
)
def test_runs_are_neither_skipped_nor_repeated(
    ledger: Ledger,
    before: list[Item],
    during: list[Item],
    size: int,
    dag_id: str | None,
    status: RunStatus | None,
    span: tuple[int, int] | None,
) -> None:
    tenant = f"runs-{next(_tenants)}"
    for known in "ab":
        ledger.rows.version(tenant, known)
    path = "/runs?" + (f"dagId={dag_id}&" if dag_id else "") + (f"status={status}&" if status else "")
    if span:
        path += f"from=2026-01-01T00:00:0{span[0]}Z&to=2026-01-01T00:00:0{span[1]}Z&"
    holds(
        ledger.api.as_(tenant),
        path,
        size,
        lambda item: str(ledger.rows.run(tenant, *item)),  # type: ignore[arg-type]
        lambda name, item: (-int(str(item[2])), name),
        lambda item: (
            (dag_id is None or item[0] == dag_id)
            and (status is None or item[1] == status)
            and (span is None or span[0] <= int(str(item[2])) < span[1])
        ),
        before,
        during,
    )


@few
@given(
    items=st.lists(version, max_size=12, unique_by=lambda item: item[:2]),
    first=st.integers(0, 12),
    size=sizes,
    dag_id=st.sampled_from([None, "b"]),
    active=st.sampled_from([None, True, False]),
)
def test_versions_are_neither_skipped_nor_repeated(
    ledger: Ledger, items: list[Item], first: int, size: int, dag_id: str | None, active: bool | None
) -> None:
    tenant = f"dags-{next(_tenants)}"

    def add(item: Item) -> str:
        dag_id, version, active = item
        ledger.rows.version(tenant, str(dag_id), str(version), active=bool(active))
        return f"{dag_id} {version}"

    query = (f"dagId={dag_id}&" if dag_id else "") + (
        f"active={active}&".lower() if active is not None else ""
    )
    holds(
        ledger.api.as_(tenant),
        f"/dags?{query}",
        size,
        add,
        lambda _, item: (item[0], RANK.index(str(item[1]))),
        lambda item: (dag_id is None or item[0] == dag_id) and (active is None or item[2] == active),
        items[:first],
        items[first:],
    )


@few
@given(
    before=st.lists(line, max_size=12),
    during=st.lists(line, max_size=8),
    size=sizes,
    action=st.sampled_from([None, "run.start"]),
)
def test_lines_of_the_audit_trail_are_neither_skipped_nor_repeated(
    ledger: Ledger, before: list[Item], during: list[Item], size: int, action: str | None
) -> None:
    tenant = f"audit-{next(_tenants)}"
    holds(
        ledger.api.as_(tenant),
        "/admin/audit?" + (f"action={action}&" if action else ""),
        size,
        lambda item: str(ledger.rows.audit(tenant, *item)),  # type: ignore[arg-type]
        lambda name, item: (-int(str(item[1])), [-ord(character) for character in name]),
        lambda item: action is None or item[0] == action,
        before,
        during,
    )
