"""Artifacts: the bytes, for the tenant that owns them."""

from __future__ import annotations

from flask import Response

from orchestrator_api import query
from orchestrator_api.context import tenant
from orchestrator_api.parts import parts
from orchestrator_api.stored import stored
from shared.services import artifacts


def get(sha256: str) -> Response:
    """Stream an artifact, or the one range of it that is asked for."""
    return stored(artifacts.owned(parts().db, tenant(), query.sha256("hash", sha256)))
