"""Lists: a page by key, or all of it as NDJSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import orjson
from flask import Response, request

from orchestrator_api import accept, ndjson, query
from orchestrator_api.context import tenant
from orchestrator_api.errors import JSON_TYPE
from orchestrator_api.paging import Key
from orchestrator_api.parts import parts

T = TypeVar("T")

TYPES = (accept.JSON, accept.NDJSON)
"""What every list can be had as; the first, when the caller does not mind."""


def page(
    *,
    read: Callable[[Key | None, int], Sequence[T]],
    stream: Callable[[], AbstractContextManager[Iterable[T]]],
    end: Callable[[T, T], Key],
    render: Callable[[T], Mapping[str, object]],
) -> Response:
    """Answer with the page of a list that the query asks for, or with all of it as NDJSON.

    ``read(after, limit)`` gives the items behind a page; one more is read than a page holds,
    to know whether there is a next one. ``end(last, following)`` says where between the two
    the page ends, which is ``after`` for the next. ``stream()`` opens all items, in the same order.

    The token is bound to the path and to every parameter but those of paging, so
    that a page size may change between two pages and a filter may not.
    """
    filters = {name: text for name, text in request.args.items() if name not in ("page_size", "page_token")}
    size = query.page_size(request.args)
    tokens, of = parts().page_tokens, request.path
    token = request.args.get("page_token")
    after = None if token is None else tokens.open(token, tenant=tenant(), of=of, filters=filters)
    if accept.chosen(request.accept_mimetypes, TYPES) == accept.NDJSON:
        return ndjson.stream(_lines(stream(), render))
    items = read(after, size + 1)
    body: dict[str, object] = {"items": [render(item) for item in items[:size]]}
    if len(items) > size:
        body["next_page_token"] = tokens.seal(
            end(items[size - 1], items[size]), tenant=tenant(), of=of, filters=filters
        )
    return Response(orjson.dumps(body), content_type=JSON_TYPE, headers={"Vary": "Accept"})


@contextmanager
def _lines(
    source: AbstractContextManager[Iterable[T]], render: Callable[[T], Mapping[str, object]]
) -> Iterator[Iterable[bytes]]:
    """Write each item as the pages do, to the byte: by the same library."""
    with source as items:
        yield (orjson.dumps(render(item), option=orjson.OPT_APPEND_NEWLINE) for item in items)
