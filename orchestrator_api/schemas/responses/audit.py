"""The audit trail."""

from __future__ import annotations

from orchestrator_api import query
from orchestrator_api.schemas.patterns import exactly
from orchestrator_api.schemas.responses.fields import count, one_of, page_of, schema, text, time
from shared.domain.models import AuditOutcome

AUDIT = schema(
    "Audit",
    {
        "auditId": text(format="uuid"),
        "atUtc": time(),
        "subject": text(minLength=1),
        "action": text(pattern=exactly(query.ACTION_PATTERN)),
        "object": text(),
        "reason": text(null=True),
        "traceId": text(pattern="^[0-9a-f]{32}$"),
        "outcome": one_of(AuditOutcome),
        "status": count(least=100),
        "code": text(null=True),
    },
)

AUDIT_PAGE = page_of(AUDIT, name="AuditPage")
