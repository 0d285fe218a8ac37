"""The page that shows the OpenAPI document: its own files, beside those of Swagger UI."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

PAGE: Final = "index.html"
_FILES: Final = {
    PAGE: ("orchestrator_api", "docs_page", "text/html; charset=utf-8"),
    "page.css": ("orchestrator_api", "docs_page", "text/css; charset=utf-8"),
    "page.js": ("orchestrator_api", "docs_page", "text/javascript; charset=utf-8"),
    "swagger-ui.css": ("flask_swagger_ui", "dist", "text/css; charset=utf-8"),
    "swagger-ui-bundle.js": ("flask_swagger_ui", "dist", "text/javascript; charset=utf-8"),
    "favicon-32x32.png": ("flask_swagger_ui", "dist", "image/png"),
    "LICENSE": ("flask_swagger_ui", "dist", "text/plain; charset=utf-8"),
}
"""By name: the package and the folder that hold the file, and its content type."""

ASSETS: Final = tuple(name for name in _FILES if name != PAGE)
"""What the page loads, and the licence of what is not ours. No other file can be asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file as it is served. ``etag`` is made of its content."""

    content: bytes
    content_type: str
    etag: str


@cache
def read(name: str) -> File:
    """Read the page or one of its assets, once in each process."""
    package, folder, content_type = _FILES[name]
    content = files(package).joinpath(folder, name).read_bytes()
    return File(content=content, content_type=content_type, etag=hashlib.sha256(content).hexdigest())
