"""What a tenant may have."""

from __future__ import annotations

from orchestrator_api.schemas.responses.fields import count, number, schema

TENANT_LIMITS = schema(
    "TenantLimits",
    {"weight": number(), "maxRunningSteps": count(null=True), "maxQueuedSteps": count(null=True)},
)
