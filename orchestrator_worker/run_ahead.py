"""Steps that have no effect are run before anybody took them, behind one that was taken.

Each transaction has its price, and a step whose plugin is pure costs less than that. Whether it
ran once or twice nobody can tell, so it may begin before its start is recorded: the steps in line behind one
that has succeeded are run in a row, and all of it is settled in one transaction.
Only successes are kept. Whatever else comes of a step, it is run again in the ordinary way, for the record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from shared.domain.models import Ancestor, Claim, Outcome, RanAhead, Succeeded
from shared.domain.states import StepStatus

AHEAD_SECONDS: Final = 0.005
"""For so long the end of a step may stay untold while others are run."""


def run_ahead(
    claim: Claim, outcome: Outcome, attempt: Callable[[Claim], Outcome], goes_on: Callable[[], bool]
) -> Sequence[RanAhead]:
    """Run what is in line behind a step that has ended with ``outcome``, while it ``goes_on``."""
    if not isinstance(outcome, Succeeded):
        return ()
    until = time.monotonic() + AHEAD_SECONDS
    seen = {claim.step_id: _seen(outcome)}
    ran: list[RanAhead] = []
    for step in claim.ahead:
        if time.monotonic() > until or not goes_on():
            break
        ancestors = {step_id: seen.get(step_id, known) for step_id, known in step.ancestors.items()}
        came = attempt(replace(step, ancestors=ancestors))
        if not isinstance(came, Succeeded) or came.artifacts:
            break
        ran.append(RanAhead(step_no=step.step_no, outcome=came))
        seen[step.step_id] = _seen(came)
    return ran


def _seen(outcome: Succeeded) -> Ancestor:
    return Ancestor(status=StepStatus.SUCCEEDED, outputs=outcome.outputs)
