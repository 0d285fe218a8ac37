"""Hold responses to what the OpenAPI document says of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import unquote

from jsonschema_rs import Draft202012Validator

from orchestrator_api.context import PREFIX
from orchestrator_api.openapi.document import build
from orchestrator_api.routes import ROUTES

Node = dict[str, Any]


@cache
def document() -> Node:
    """Give the document of this version."""
    return build(ROUTES)


def check_response(
    method: str, url_path: str, status: int, headers: Mapping[str, str], body: bytes | None
) -> None:
    """Fail unless the document declares such a response: its status, headers, content type and content.

    A body of ``None`` is not looked at.
    """
    said = f"{method} {url_path} -> {status} {dict(headers)} {(body or b'')[:1_000]!r}"
    operation = _operation("GET" if method == "HEAD" else method, url_path)
    if operation is None:
        assert status in (404, 405), f"not in the document: {said}"
        declared: Node = {"headers": {}, "content": _refusal_content()}
    else:
        assert str(status) in operation["responses"], f"the status is not declared: {said}"
        declared = operation["responses"][str(status)]
    _check_headers(declared["headers"], headers, said)
    content = declared.get("content")
    if content is None:
        assert not body, f"no content is declared: {said}"
    else:
        declared_kind = _content(content, headers.get("Content-Type", ""), said)
        if method != "HEAD" and body is not None:
            _check_content(declared_kind, body, said)


class CheckedStream:
    """The pieces of a streamed response; each line is held to what the document says of lines."""

    def __init__(self, method: str, url_path: str, status: int, pieces: Iterable[Any]) -> None:
        self._pieces, self._close = iter(pieces), getattr(pieces, "close", None)
        self._said = f"{method} {url_path} -> {status}"
        self._rest = b""
        operation = _operation("GET" if method == "HEAD" else method, url_path) or {"responses": {}}
        content = operation["responses"].get(str(status), {}).get("content", {})
        self._line: Node | None = content.get("application/x-ndjson", {}).get("x-item-schema")

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece: bytes = next(self._pieces)
        if self._line is not None:
            *lines, self._rest = (self._rest + piece).split(b"\n")
            for line in lines:
                _check(self._line, json.loads(line), self._said)
        return piece

    def close(self) -> None:
        if self._close is not None:
            self._close()


def _check_headers(declared: Node, headers: Mapping[str, str], said: str) -> None:
    always = {"X-Trace-Id": {"$ref": "#/components/headers/X-Trace-Id"}}
    for name, reference in (declared or always).items():
        header = _resolved(reference)
        value = headers.get(name)
        if value is None:
            assert not header.get("required"), f"{name} is missing: {said}"
            continue
        schema = header["schema"]
        known = int(value) if schema.get("type") == "integer" else value
        _check(schema, known, f"{name}: {said}")


def _content(declared: Node, content_type: str, said: str) -> tuple[str, Node]:
    kind = content_type.partition(";")[0]
    content = declared.get(kind, declared.get("*/*"))
    assert content is not None, f"the content type is not declared: {said}"
    if kind == "application/json":
        assert content_type == "application/json; charset=utf-8", said
    return kind, content


def _check_content(declared: tuple[str, Node], body: bytes, said: str) -> None:
    kind, content = declared
    if kind == "application/json":
        _check(content["schema"], json.loads(body), said)
    elif "x-item-schema" in content:
        for line in body.splitlines():
            _check(content["x-item-schema"], json.loads(line), said)


def _check(schema: Node, value: object, said: str) -> None:
    errors = [
        f"{error.instance_path}: {error.message}"
        for error in _validator(json.dumps(schema)).iter_errors(value)
    ]
    assert not errors, f"{errors} in {said}"


@cache
def _validator(schema: str) -> Draft202012Validator:
    whole = {**json.loads(schema), "components": document()["components"]}
    return Draft202012Validator(whole, validate_formats=True, offline=True)


def _resolved(reference: Node) -> Node:
    _, _, section, name = reference["$ref"].split("/")
    return dict(document()["components"][section][name])


@cache
def _refusal_content() -> Node:
    return {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}


def _operation(method: str, url_path: str) -> Node | None:
    path = unquote(url_path.partition("?")[0]).removeprefix(PREFIX)
    for template, operations in document()["paths"].items():
        pattern = re.sub(r"\\\{\w+\\\}", "[^/:]+", re.escape(template))
        if re.fullmatch(pattern, path) and method.lower() in operations:
            return dict(operations[method.lower()])
    return None
