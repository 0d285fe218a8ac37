"""The OpenAPI document, and the page that shows it. All of it comes from this installation."""

from __future__ import annotations

from typing import Final

from flask import Response, request

from orchestrator_api import docs_page
from orchestrator_api.errors import JSON_TYPE
from orchestrator_api.openapi.published import published
from shared.errors import NotFound

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def openapi() -> Response:
    """Give the OpenAPI document, or 304 to a caller who has it."""
    document = published()
    response = Response(document.body, content_type=JSON_TYPE)
    response.headers["Cache-Control"] = "private, no-cache"
    response.set_etag(document.etag)
    response.make_conditional(request)
    return response


def page() -> Response:
    """Give the page that shows the document. It holds nothing of any tenant."""
    return _file(docs_page.PAGE)


def asset(asset: str) -> Response:
    """Give a file that the page loads."""
    if asset not in docs_page.ASSETS:
        raise NotFound("there is nothing at this path")
    return _file(asset)


def _file(name: str) -> Response:
    file = docs_page.read(name)
    response = Response(file.content, content_type=file.content_type)
    response.headers["Cache-Control"] = "no-cache"
    response.headers["Content-Security-Policy"] = _POLICY
    response.set_etag(file.etag)
    response.make_conditional(request)
    return response
