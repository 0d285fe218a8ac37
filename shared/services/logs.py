"""Tell where the log of an attempt stands."""

from __future__ import annotations

from shared.domain.models import RunId, StepId, TenantId
from shared.services.steps import absent
from shared.store import logs as store
from shared.store.db import Database
from shared.store.logs import Log

__all__ = ["Log", "get"]


def get(db: Database, tenant: TenantId, run_id: RunId, step_id: StepId, attempt: int | None) -> Log:
    """Read where the log of an attempt stands; of the newest one, when ``attempt`` is ``None``.

    Raises :class:`RunNotFound` or :class:`StepNotFound`. An attempt that has not begun is no error here.
    """
    with db.transaction(tenant) as cur:
        found = store.get_log(cur, tenant, run_id, step_id, attempt)
        if found is None:
            raise absent(cur, tenant, run_id, step_id)
        return found
