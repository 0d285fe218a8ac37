"""The audit trail: who asked for which change, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from flask import Response, request

from orchestrator_api import query, render
from orchestrator_api.context import tenant
from orchestrator_api.listing import page
from orchestrator_api.paging import Key
from orchestrator_api.parts import parts
from shared.domain.models import AuditEntry, AuditFilter
from shared.services import calls


def list_audit() -> Response:
    """List the tenant's audit trail, the newest line first."""
    wanted = AuditFilter(
        action=query.optional(request.args, "action", query.action),
        from_utc=query.optional(request.args, "from", query.timestamp),
        to_utc=query.optional(request.args, "to", query.timestamp),
    )

    def read(after: Key | None, limit: int) -> Sequence[AuditEntry]:
        last = None if after is None else (datetime.fromisoformat(str(after[0])), UUID(str(after[1])))
        return calls.list_page(parts().db, tenant(), wanted, after=last, limit=limit)

    return page(
        read=read,
        stream=lambda: calls.stream(parts().db_of_streams, tenant(), wanted),
        end=lambda entry, _: (entry.at_utc.isoformat(), str(entry.audit_id)),
        render=render.audit,
    )
