"""Lists by key: read one item more than a page holds, to know whether there is a next page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from flask import Response, request

from orchestrator_api import query
from orchestrator_api.context import tenant
from orchestrator_api.paging import Key
from orchestrator_api.parts import parts
from orchestrator_api.responses import answer

T = TypeVar("T")


def page(
    *,
    read: Callable[[Key | None, int], Sequence[T]],
    key: Callable[[T], Key],
    render: Callable[[T], Mapping[str, object]],
) -> Response:
    """Answer with the page of a list that the query asks for.

    ``read(after, limit)`` gives the items behind the one whose ``key`` was ``after``.
    The token is bound to the path and to every parameter but those of paging, so
    that a page size may change between two pages and a filter may not.
    """
    filters = {name: text for name, text in request.args.items() if name not in ("page_size", "page_token")}
    size = query.page_size(request.args)
    tokens, of = parts().page_tokens, request.path
    token = request.args.get("page_token")
    after = None if token is None else tokens.open(token, tenant=tenant(), of=of, filters=filters)
    items = read(after, size + 1)
    body: dict[str, object] = {"items": [render(item) for item in items[:size]]}
    if len(items) > size:
        body["next_page_token"] = tokens.seal(key(items[size - 1]), tenant=tenant(), of=of, filters=filters)
    return answer(body)
