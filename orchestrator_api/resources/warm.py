"""Load definitions and plugins ahead of their first use."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from uuid import UUID

from flask import Response, request

from orchestrator_api import idempotency, json_body, render
from orchestrator_api.context import tenant
from orchestrator_api.parts import parts
from orchestrator_api.responses import answer
from orchestrator_api.schemas.warm import warm_request
from shared.domain.models import TenantId, WorkerId
from shared.domain.warm import Loaded
from shared.errors import Problem, UnknownPlugin
from shared.ids import uuid7
from shared.services import warm as service
from shared.services.warm import WarmRequest

ACTION = "cache.warm"
WAIT_SECONDS = 3.0
_PAUSE_SECONDS = 0.1


def warm() -> Response:
    """Load here what the body names, ask every live worker, and tell who has done so after some seconds."""
    body, _ = json_body.receive(request)
    wanted = warm_request(body)
    plugins = _known_plugins(wanted.plugins)
    names = [service.resolve(parts().db, tenant(), dag_id, version) for dag_id, version in wanted.dags]
    asked = WarmRequest(
        tenant=tenant(), warm_id=uuid7(), dags=tuple(dict.fromkeys(names)), plugins=tuple(plugins)
    )
    service.ask(parts().db, asked, idempotency.accepted(ACTION, 202))
    here = service.load(parts().db, tenant(), parts().catalog, asked.dags, asked.plugins)
    fleet = _wait_for_fleet(tenant(), asked.warm_id)
    process = f"{socket.gethostname()}-{os.getpid()}"
    return answer(render.warmth(here, process, fleet), 202)


def _known_plugins(uses: Sequence[str] | None) -> list[str]:
    """Give the names of all plugins for ``None``; raise UnknownPlugin for one that this process lacks."""
    catalog = parts().catalog
    if uses is None:
        return [info.name for info in catalog.infos()]
    unknown = [
        Problem(f"plugins[{i}]", "there is no such plugin")
        for i, name in enumerate(uses)
        if not catalog.find(name)
    ]
    if unknown:
        raise UnknownPlugin("a plugin is named that this installation does not have", unknown)
    return list(dict.fromkeys(uses))


def _wait_for_fleet(of: TenantId, warm_id: UUID) -> Mapping[WorkerId, Loaded | None]:
    """Wait until each live worker has answered, and for no longer than some seconds."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        fleet = service.reports(parts().db, of, warm_id)
        if all(fleet.values()) or time.monotonic() > until:
            return fleet
        time.sleep(_PAUSE_SECONDS)
