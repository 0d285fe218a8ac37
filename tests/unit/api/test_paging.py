from __future__ import annotations

import pytest

from orchestrator_api.paging import Key, PageTokens
from shared.domain.models import TenantId
from shared.errors import InvalidPageToken

ACME = TenantId("acme")
TOKENS = PageTokens(b"k" * 32)
KEY = ["2026-11-21T23:04:05.123456+00:00", "0193"]


def sealed() -> str:
    return TOKENS.seal(KEY, tenant=ACME, of="/runs", filters={"status": "failed"})


def opened(
    token: str,
    *,
    tokens: PageTokens = TOKENS,
    tenant: str = "acme",
    of: str = "/runs",
    status: str = "failed",
) -> Key:
    return tokens.open(token, tenant=TenantId(tenant), of=of, filters={"status": status})


def test_a_token_opens_for_the_query_that_it_was_made_for() -> None:
    assert opened(sealed()) == KEY


@pytest.mark.parametrize("changed", [{"tenant": "globex"}, {"of": "/dags"}, {"status": "running"}])
def test_a_token_does_not_open_for_another_query(changed: dict[str, str]) -> None:
    with pytest.raises(InvalidPageToken):
        opened(sealed(), **changed)  # type: ignore[arg-type]


def test_a_token_of_another_installation_does_not_open() -> None:
    with pytest.raises(InvalidPageToken):
        opened(sealed(), tokens=PageTokens(b"x" * 32))


def test_a_token_with_any_character_changed_does_not_open() -> None:
    token = sealed()
    for index, character in enumerate(token):
        for other in "AB":
            if other != character:
                with pytest.raises(InvalidPageToken):
                    opened(token[:index] + other + token[index + 1 :])


@pytest.mark.parametrize("token", ["", ".", "a.b", "é", "x" * 5_000, "\x00", sealed() + "=", " " + sealed()])
def test_what_is_no_token_does_not_open(token: str) -> None:
    with pytest.raises(InvalidPageToken):
        opened(token)
