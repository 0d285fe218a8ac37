"""What ``uses`` may name in this installation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from flask import Response

from orchestrator_api import render
from orchestrator_api.listing import page
from orchestrator_api.paging import Key
from orchestrator_api.parts import parts
from shared.plugins import PluginInfo


def list_plugins() -> Response:
    """List the plugins by name and version."""
    infos = sorted(parts().catalog.infos(), key=_key)

    def read(after: Key | None, limit: int) -> Sequence[PluginInfo]:
        return [info for info in infos if after is None or _key(info) > tuple(after)][:limit]

    return page(
        read=read, stream=lambda: nullcontext(infos), end=lambda info, _: _key(info), render=render.plugin
    )


def _key(info: PluginInfo) -> tuple[str, str]:
    return info.name, info.version
