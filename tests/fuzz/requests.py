"""Requests that begin as good ones, of every route, and are then bent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import quote

from orchestrator_api.context import PREFIX
from orchestrator_api.routes import ROUTES, Route

Headers = list[tuple[str, str]]

WORDS = (
    "",
    " ",
    "a",
    "A",
    "..",
    "%00",
    "%2F",
    "%ff",
    "*",
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    "NaN",
    "9" * 400,
    "a" * 300,
    "\u00e9",
    "\U0001f4a9",
    "'; DROP TABLE runs; --",
    "${{ 1/0 }}",
    "{{7*7}}",
    "\\",
    '"',
    "\t",
    "\x7f",
    "2026-11-27T00:00:00Z",
    "9999-12-31T23:59:59.999999+14:00",
    "0001-01-01T00:00:00-14:00",
    "1.0.0",
    "9.9.9-x+y",
    "application/x-ndjson",
    "bytes=0-0",
    "bytes=5-1",
    "bytes=-1,0-",
    "gzip",
    "chunked",
    'W/"x"',
    "eyJhbGciOiJub25lIn0.e30.",
)
VALUES: tuple[object, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    2**53,
    10**30,
    "",
    "a",
    "\x00",
    "\ud800",
    [],
    {},
    [[]],
    {"": 0},
    "x" * 5_000,
    1e308,
    {"a": {"b": {"c": []}}},
    "${{ inputs.x }}",
    "${{ steps.a.outputs }}",
    "${{",
    "noop@1.0.0",
    "always",
    [None] * 50,
)
RAW = (
    b"",
    b"{",
    b"[" * 9_999,
    b'{"a":1,"a":2}',
    b"\xff\xfe",
    b'"\\ud800"',
    b"NaN",
    b"1" * 10_000,
    b"\x00",
    b"{}" * 3,
    b'{"dagId":"fuzz","inputs":{"n":1e400}}',
    b"\xef\xbb\xbf{}",
    b"[1,]",
    b"'a'",
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "FOO")
QUERY = (
    "page_size",
    "page_token",
    "dagId",
    "status",
    "from",
    "to",
    "active",
    "action",
    "attempt",
    "follow",
    "x",
)


@dataclass(slots=True, kw_only=True)
class Known:
    """Names that exist, to be put into paths and bodies."""

    token: str
    tenant: str
    dag_ids: list[str] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Request:
    """A request before it is written down."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: Headers
    body: bytes | None

    def written(self) -> bytes:
        """Write the request as it goes over the wire; what no line can hold is left out."""
        query = "&".join(f"{quote(name)}={quote(value)}" for name, value in self.query)
        target = self.path + ("?" + query if query else "")
        lines = [f"{self.method} {target} HTTP/1.1", "Host: fuzz"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.body is not None:
            lines.append(f"Content-Length: {len(self.body)}")
        text = "\r\n".join(re.sub(r"[\r\n]", "", line) for line in lines)
        return text.encode("utf-8", "replace") + b"\r\n\r\n" + (self.body or b"")


class Requests:
    """A stream of requests that one seed makes the same each time."""

    def __init__(self, seed: str, known: Known) -> None:
        self._random = Random(seed)
        self._known = known
        self._number = 0

    def next(self) -> Request:
        """Make a good request of some route, and bend it up to three times."""
        self._number += 1
        request = self._good(self._random.choice(ROUTES))
        for _ in range(self._random.randrange(4)):
            self._random.choice(self._BENDS)(self, request)
        return request

    def _good(self, route: Route) -> Request:
        known, random = self._known, self._random
        names = {
            "dag_id": random.choice(known.dag_ids),
            "version": "1.0.0",
            "run_id": random.choice(known.run_ids),
            "step_id": random.choice("ab"),
            "sha256": random.choice(known.hashes),
        }
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda found: names.get(found[1], "a"), route.path)
        headers = [("Authorization", f"Bearer {known.token}"), ("X-Stella-Tenant", known.tenant)]
        body = None
        if route.method in ("POST", "PUT"):
            headers += [
                ("Content-Type", "application/json"),
                ("Idempotency-Key", f"{self._number}" if random.random() < 0.9 else "again"),
            ]
            body = json.dumps(self._document(route, names)).encode()
        return Request(method=route.method, path=PREFIX + path, query=[], headers=headers, body=body)

    def _document(self, route: Route, names: dict[str, str]) -> dict[str, object]:
        if route.endpoint == "runs.start":
            return {"dagId": names["dag_id"], "inputs": {"n": self._random.randrange(9)}}
        if route.endpoint == "dags.publish":
            return {
                "dagId": names["dag_id"],
                "version": f"1.0.{self._random.randrange(200)}",
                "steps": [
                    {
                        "id": "a",
                        "uses": "noop",
                        "with": {"n": "${{ inputs.n }}"},
                        "retry": {"maxAttempts": 2},
                    },
                    {"id": "b", "uses": "noop", "when": "steps.a.status == 'succeeded'", "pool": "default"},
                ],
                "edges": [{"from": "a", "to": "b"}],
                "metadata": {"owner": "fuzz", "inputsSchema": {"type": "object"}},
            }
        return {}

    def _bend_method(self, request: Request) -> None:
        request.method = self._random.choice(METHODS)

    def _bend_path(self, request: Request) -> None:
        parts = request.path.split("/")
        parts[self._random.randrange(len(parts))] = self._word()
        request.path = quote("/".join(parts), safe="/%:*") or "/"

    def _bend_query(self, request: Request) -> None:
        request.query.append((self._random.choice(QUERY), self._word()))

    def _bend_header(self, request: Request) -> None:
        names = [name for name, _ in request.headers] + [
            "Accept",
            "Range",
            "If-None-Match",
            "traceparent",
            "Expect",
        ]
        name, choice = self._random.choice(names), self._random.random()
        if choice < 0.5:
            request.headers = [pair for pair in request.headers if pair[0] != name]
        if choice > 0.3:
            request.headers.append((name, self._word()))

    def _bend_raw(self, request: Request) -> None:
        request.body = self._random.choice(RAW)

    def _bend_bytes(self, request: Request) -> None:
        if request.body:
            place = self._random.randrange(len(request.body))
            request.body = request.body[:place] + self._random.randbytes(1) + request.body[place + 1 :]

    def _bend_document(self, request: Request) -> None:
        try:
            document = json.loads(request.body or b"")
        except (ValueError, RecursionError):
            return
        if isinstance(document, dict | list):
            self._bend_value(document)
        request.body = json.dumps(document).encode()

    def _bend_value(self, value: Any) -> None:
        while True:
            places = list(value) if isinstance(value, dict) else list(range(len(value)))
            if not places:
                return
            place = self._random.choice(places)
            inner = value[place]
            if not isinstance(inner, dict | list) or self._random.random() < 0.3:
                break
            value = inner
        if isinstance(value, dict) and self._random.random() < 0.2:
            value[self._word()] = value.pop(place)
        else:
            value[place] = self._random.choice(VALUES)

    def _word(self) -> str:
        known = self._known
        pools: Sequence[Sequence[str]] = (WORDS, WORDS, known.run_ids, known.dag_ids, known.hashes)
        return self._random.choice(self._random.choice(pools))

    _BENDS: tuple[Callable[[Requests, Request], None], ...] = (
        _bend_method,
        _bend_path,
        _bend_query,
        _bend_query,
        _bend_header,
        _bend_header,
        _bend_raw,
        _bend_bytes,
        _bend_document,
        _bend_document,
        _bend_document,
    )
