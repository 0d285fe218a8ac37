"""Every path with every method: what it does not take is 405, with the methods that it takes."""

from __future__ import annotations

import pytest

from orchestrator_api.routes import ROUTES
from tests.integration.api.conftest import Api
from tests.integration.api.test_http import code, path_of

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW")
EXAMPLES = {route.path: path_of(route) for route in ROUTES}


def allowed(path: str) -> set[str]:
    methods = {route.method for route in ROUTES if route.path == path}
    return methods | {"HEAD"} if "GET" in methods else methods


@pytest.mark.parametrize("path", EXAMPLES)
def test_a_path_tells_exactly_the_methods_that_it_takes(quiet_api: Api, path: str) -> None:
    for method in set(METHODS) - allowed(path):
        for caller in (quiet_api, quiet_api.anonymous()):
            response = caller.call(method, EXAMPLES[path])
            assert response.status_code == 405, method
            told = response.headers["Allow"].split(", ")
            assert sorted(told) == sorted(allowed(path))
            if method != "HEAD":
                assert code(response) == (405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize("path", EXAMPLES)
def test_a_path_takes_the_methods_that_it_tells(quiet_api: Api, path: str) -> None:
    for method in allowed(path):
        response = quiet_api.call(method, EXAMPLES[path])
        assert response.status_code not in (405, 500)
        assert "Allow" not in response.headers


@pytest.mark.parametrize("path", [path for path in EXAMPLES if "GET" in allowed(path)])
@pytest.mark.parametrize("query", ["", "?colour=red", "?page_size=0"])
def test_head_answers_as_get_does_without_the_body(quiet_api: Api, path: str, query: str) -> None:
    get, head = (quiet_api.call(method, EXAMPLES[path] + query) for method in ("GET", "HEAD"))
    assert head.status_code == get.status_code
    assert head.data == b""
    assert ("Content-Length" in head.headers) == ("Content-Length" in get.headers)
    for name in ("Content-Type", "Cache-Control", "Retry-After"):
        assert head.headers.get(name) == get.headers.get(name)
