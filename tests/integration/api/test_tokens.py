"""Every token of the corpus against the application: who may not come in is told so, and never with a 500."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from orchestrator_api.app import create_app
from orchestrator_api.auth import TokenVerifier, load_keys
from orchestrator_api.context import PREFIX
from tests.integration.api.conftest import Api
from tests.support.token_corpus import EC, ED, FORBIDDEN, HOLDS, REFUSED, RSA
from tests.support.tokens import jwks


@pytest.fixture(scope="module")
def app(quiet_api: Api, tmp_path_factory: pytest.TempPathFactory) -> Flask:
    key_file: Path = tmp_path_factory.mktemp("keys") / "jwks.json"
    key_file.write_text(jwks(EC, ED, RSA))
    return create_app(replace(quiet_api.parts, tokens=TokenVerifier(load_keys(key_file), issuer="test")))


def listed(app: Flask, token: str) -> TestResponse:
    headers = {"Authorization": f"Bearer {token}", "X-Stella-Tenant": "acme"}
    return app.test_client().get(f"{PREFIX}/runs", headers=headers)


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_a_token_that_does_not_hold_is_401(app: Flask, make: Callable[[], str]) -> None:
    response = listed(app, make())
    error = response.get_json()["error"]
    assert (response.status_code, error["code"]) == (401, "UNAUTHENTICATED")
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert error["trace_id"] == response.headers["X-Trace-Id"]


@pytest.mark.parametrize(("make", "code"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_a_token_that_allows_too_little_is_403(app: Flask, make: Callable[[], str], code: str) -> None:
    response = listed(app, make())
    assert (response.status_code, response.get_json()["error"]["code"]) == (403, code)


@pytest.mark.parametrize("make", HOLDS.values(), ids=HOLDS.keys())
def test_a_token_that_holds_is_taken(app: Flask, make: Callable[[], str]) -> None:
    assert listed(app, make()).status_code == 200
