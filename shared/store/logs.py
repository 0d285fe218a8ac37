"""The logs of attempts, in the ledger."""

from __future__ import annotations

from dataclasses import dataclass

from shared.domain.models import RunId, Sha256, StepId, TenantId
from shared.domain.states import AttemptStatus, StepStatus
from shared.store.db import Cursor
from shared.store.queries import load

_SQL = load("logs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Where the log of an attempt stands.

    ``newest`` numbers the step's newest attempt, 0 before the first. ``attempt`` and its
    ``status`` are ``None`` for an attempt that has not begun. ``stored_as`` is ``None`` until
    the attempt has ended, and for good when it logged nothing or was lost.
    """

    step_no: int
    step_status: StepStatus
    newest: int
    attempt: int | None
    status: AttemptStatus | None
    stored_as: Sha256 | None


def get_log(cur: Cursor, tenant: TenantId, run_id: RunId, step_id: StepId, attempt: int | None) -> Log | None:
    """Read where the log of an attempt stands, the newest if ``None``; ``None`` without such a step."""
    cur.execute(
        _SQL["get_log"], {"tenant": tenant, "run_id": str(run_id), "step_id": step_id, "attempt": attempt}
    )
    row = cur.fetchone()
    if row is None:
        return None
    return Log(
        step_no=row[0],
        step_status=StepStatus(row[1]),
        newest=row[2],
        attempt=row[3],
        status=None if row[4] is None else AttemptStatus(row[4]),
        stored_as=row[5],
    )
