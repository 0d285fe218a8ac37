"""Make the successful responses. Failures are made in ``errors``."""

from __future__ import annotations

import json
from collections.abc import Mapping

from flask import Response

from orchestrator_api.errors import JSON_TYPE


def answer(
    body: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with a JSON object."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Response(text, status=status, headers=dict(headers or {}), content_type=JSON_TYPE)
