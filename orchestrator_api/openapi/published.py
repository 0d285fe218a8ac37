"""The document as bytes: written once in each process, when it is first asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from typing import cast

from flask import Flask, current_app

_EXTENSION = "orchestrator-openapi"


class Published:
    """An OpenAPI document that ``build`` makes.

    Two threads that ask at once may both build it: they build the same.
    """

    def __init__(self, build: Callable[[], object]) -> None:
        self._build = build

    @cached_property
    def body(self) -> bytes:
        """Give the document as JSON."""
        return json.dumps(self._build(), separators=(",", ":"), ensure_ascii=False).encode()

    @cached_property
    def etag(self) -> str:
        """Give what stands for the document; another one has another."""
        return hashlib.sha256(self.body).hexdigest()


def attach(app: Flask, build: Callable[[], object]) -> None:
    """Have ``app`` publish the document that ``build`` makes."""
    app.extensions[_EXTENSION] = Published(build)


def published() -> Published:
    """Give the document of the application that serves this request."""
    return cast(Published, current_app.extensions[_EXTENSION])
