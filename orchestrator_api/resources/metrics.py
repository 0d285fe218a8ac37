"""The page that Prometheus reads."""

from __future__ import annotations

from flask import Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from orchestrator_api.context import caller
from orchestrator_api.ledger_metrics import LedgerMetrics
from orchestrator_api.parts import parts
from shared.services import metrics as ledger

CATCH_UP_SECONDS = 1.0


def metrics() -> Response:
    """Give the series of the caller's tenant, or of all tenants to an operator, and those of this server."""
    known = caller()
    tenant = None if known is None else known.tenant
    db = parts().db_of_all if tenant is None else parts().db
    ledger.catch_up(db, tenant, within_seconds=CATCH_UP_SECONDS)
    queues = parts().queue_counts.of(db, tenant)
    measured = LedgerMetrics(ledger.measure(db, tenant), queues, tenant, parts().pools)
    return Response(parts().metrics.page([measured]), content_type=CONTENT_TYPE_PLAIN_0_0_4)
