"""What operators ask."""

from __future__ import annotations

from typing import Final

from orchestrator_api.openapi.operation import JSON, Answer, Operation, page
from orchestrator_api.schemas.limits import LIMITS
from orchestrator_api.schemas.responses.audit import AUDIT, AUDIT_PAGE
from orchestrator_api.schemas.responses.health import HEALTHY, UNHEALTHY
from orchestrator_api.schemas.responses.limits import TENANT_LIMITS
from orchestrator_api.schemas.responses.warm import WARMTH
from orchestrator_api.schemas.warm import WARM
from shared import errors
from shared.domain.models import JsonObject

_LIMITS: Final[JsonObject] = {"weight": 1, "maxRunningSteps": 50, "maxQueuedSteps": None}

OPERATIONS: Final = {
    "audit.list_audit": Operation(
        tag="Admin",
        summary="List who changed what",
        description="Every call that asked for a change, and what became of it; the newest first.",
        answers={200: page(AUDIT_PAGE, lines=AUDIT, description="A page of the audit trail.")},
    ),
    "health.health": Operation(
        tag="Admin",
        summary="Tell whether the installation can do its work",
        description=(
            "With a token also the queues of the tenant, whether a sweeper is alive, and which rows it "
            "fails on; with an operator's and the tenant `*`, those of all tenants, and what goes wrong."
        ),
        answers={
            200: Answer(
                description="All is up.",
                content={JSON: HEALTHY},
                example={"status": "ok", "checks": {"postgres": "ok", "redis": "ok", "workers": "ok"}},
            ),
            503: Answer(
                description="- `UNAVAILABLE`: Something is down.",
                content={JSON: UNHEALTHY},
                headers=("Retry-After",),
            ),
        },
    ),
    "limits.get": Operation(
        tag="Admin",
        summary="Read what the tenant may have",
        answers={200: Answer(description="The limits.", content={JSON: TENANT_LIMITS}, example=_LIMITS)},
    ),
    "limits.put": Operation(
        tag="Admin",
        summary="Set what the tenant may have",
        description="All of it: what is left out gets its default again.",
        request=LIMITS,
        request_examples={"a small tenant": {**_LIMITS, "reason": "a trial"}},
        answers={200: Answer(description="The limits now.", content={JSON: TENANT_LIMITS}, example=_LIMITS)},
        errors=(errors.OperatorOnly,),
    ),
    "warm.warm": Operation(
        tag="Admin",
        summary="Load definitions and plugins ahead of their first use",
        description="In this process, and in every worker. An empty body asks for all plugins.",
        request=WARM,
        request_required=False,
        request_examples={"a DAG": {"dags": [{"dagId": "policy-refresh"}], "plugins": ["http"]}},
        answers={
            202: Answer(description="Who has loaded what, as far as is known by now.", content={JSON: WARMTH})
        },
        errors=(errors.DagNotFound, errors.UnknownPlugin),
    ),
    "metrics.metrics": Operation(
        tag="Admin",
        summary="Read the metrics",
        description="A tenant's token sees that tenant's series and the server's own; an operator's all.",
        answers={200: Answer(description="For Prometheus.", content={"text/plain": {"type": "string"}})},
    ),
}
