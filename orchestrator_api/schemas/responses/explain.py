"""Why a step is where it is."""

from __future__ import annotations

from marshmallow import INCLUDE, Schema

from orchestrator_api.schemas.responses.fields import many, one_of, schema, text
from shared.domain.explanation import ReasonCode
from shared.domain.states import StepStatus


class Reason(Schema):
    """One thing that keeps a step where it is; what else it has, depends on the code."""

    class Meta:
        unknown = INCLUDE

    code = one_of(ReasonCode)
    message = text(minLength=1)


EXPLANATION = schema("Explanation", {"status": one_of(StepStatus), "reasons": many(Reason)})
