"""What ``uses`` may name in this installation."""

from __future__ import annotations

from flask import Response

from orchestrator_api import render
from orchestrator_api.parts import parts
from orchestrator_api.responses import answer


def list_plugins() -> Response:
    """List the plugins by name and version."""
    infos = sorted(parts().catalog.infos(), key=lambda info: (info.name, info.version))
    return answer({"items": [render.plugin(info) for info in infos]})
