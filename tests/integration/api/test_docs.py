"""The OpenAPI document and the page that shows it, as they are served."""

from __future__ import annotations

import json
import re

import pytest

from orchestrator_api import docs_page
from tests.integration.api.conftest import Api
from tests.support.openapi import document


def test_the_document_is_for_those_who_may_read(quiet_api: Api) -> None:
    response = quiet_api.get("/openapi.json")
    assert json.loads(response.data) == document()
    assert response.headers["Cache-Control"] == "private, no-cache"
    writer = quiet_api.as_("acme", scope="orchestrator:write")
    assert writer.get("/openapi.json").status_code == 403
    assert quiet_api.anonymous().get("/openapi.json").status_code == 401


def test_who_has_the_document_does_not_get_it_again(quiet_api: Api) -> None:
    etag = quiet_api.get("/openapi.json").headers["ETag"]
    again = quiet_api.get("/openapi.json", headers={"If-None-Match": etag})
    assert (again.status_code, again.data) == (304, b"")


def test_the_page_and_all_that_it_loads_are_served_by_us(quiet_api: Api) -> None:
    anybody = quiet_api.anonymous()
    page = anybody.get("/docs")
    assert (page.status_code, page.content_type) == (200, "text/html; charset=utf-8")
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {link.removeprefix("docs/") for link in linked} == set(docs_page.ASSETS)
    for link in linked:
        assert anybody.get(f"/{link}").status_code == 200


@pytest.mark.parametrize("name", docs_page.ASSETS)
def test_an_asset_has_its_type_and_is_kept_by_who_has_it(quiet_api: Api, name: str) -> None:
    anybody = quiet_api.anonymous()
    response = anybody.get(f"/docs/{name}")
    kinds = {"css": "text/css", "js": "text/javascript", "png": "image/png"}
    assert response.mimetype == kinds.get(name.rpartition(".")[2], "text/plain")
    again = anybody.get(f"/docs/{name}", headers={"If-None-Match": response.headers["ETag"]})
    assert again.status_code == 304


def test_the_page_may_run_no_script_but_our_files_and_ask_nobody_else(quiet_api: Api) -> None:
    page = quiet_api.anonymous().get("/docs")
    policy = dict(rule.split(" ", 1) for rule in page.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert not re.search(r"<script(?![^>]*\ssrc=)|\son\w+=|javascript:|https?://", page.text)


def test_the_licence_of_what_is_not_ours_lies_beside_it(quiet_api: Api) -> None:
    assert "Apache License" in quiet_api.anonymous().get("/docs/LICENSE").text


@pytest.mark.parametrize("name", ["index.html", "swagger-ui.js", "..", "__init__.py", "page.css.map"])
def test_no_other_file_can_be_asked_for(quiet_api: Api, name: str) -> None:
    response = quiet_api.anonymous().get(f"/docs/{name}")
    assert (response.status_code, response.json["error"]["code"]) == (404, "NOT_FOUND")  # type: ignore[index]
