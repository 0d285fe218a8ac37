"""The shape of what an operator sets for a tenant."""

from __future__ import annotations

from typing import Final, cast

from marshmallow import Schema, ValidationError, fields, validate

from orchestrator_api.schemas.check import shaped
from orchestrator_api.schemas.fields import KEYWORDS, Text
from shared.domain.models import Json, TenantLimits

MAX_STEPS: Final = 1_000_000_000
MIN_WEIGHT: Final = 0.001
MAX_WEIGHT: Final = 1_000


def _be_weight(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValidationError("Not a valid number.")
    if not MIN_WEIGHT <= value <= MAX_WEIGHT:
        raise ValidationError(f"Must be from {MIN_WEIGHT} to {MAX_WEIGHT}.")


def _steps() -> fields.Integer:
    return fields.Integer(strict=True, allow_none=True, validate=validate.Range(min=0, max=MAX_STEPS))


LIMITS = Schema.from_dict(
    {
        "weight": fields.Raw(
            validate=_be_weight,
            metadata={KEYWORDS: {"type": "number", "minimum": MIN_WEIGHT, "maximum": MAX_WEIGHT}},
        ),
        "maxRunningSteps": _steps(),
        "maxQueuedSteps": _steps(),
        "reason": Text(required=True, most=1_000),
    },
    name="Limits",
)

_LIMITS = LIMITS()


def limits_and_reason(body: Json) -> tuple[TenantLimits, str]:
    """Read the body of a ``PUT``: it says everything, so what it leaves out gets its default again."""
    document = shaped(_LIMITS, body)
    limits = TenantLimits(
        weight=float(cast("float", document.get("weight", 1))),
        max_running_steps=cast("int | None", document.get("maxRunningSteps")),
        max_queued_steps=cast("int | None", document.get("maxQueuedSteps")),
    )
    return limits, cast(str, document["reason"])
