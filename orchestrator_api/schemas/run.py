"""The shapes of requests about runs, and the typed values that they carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

from orchestrator_api.schemas.check import shaped
from orchestrator_api.schemas.fields import Known, Object, Text
from shared.domain.hashing import canonical
from shared.domain.models import DagId, Json, JsonObject
from shared.errors import InputsTooLarge

MAX_INPUTS_BYTES: Final = 1024 * 1024

START_RUN = Known.from_dict(
    {
        "dagId": Text(required=True, most=128),
        "version": Text(most=128),
        "inputs": Object(),
        "runToken": Text(most=255),
    },
    name="StartRun",
)

CANCEL_RUN = Known.from_dict({"reason": Text(least=0, most=1_000)}, name="CancelRun")

NOTHING = Known.from_dict({}, name="Nothing")

_START_RUN, _CANCEL_RUN, _NOTHING = START_RUN(), CANCEL_RUN(), NOTHING()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRun:
    """What a caller wants to run; the highest active version when ``version`` is ``None``."""

    dag_id: DagId
    version: str | None
    inputs: JsonObject
    run_token: str | None


def start_run(body: Json, body_bytes: int) -> StartRun:
    """Read the body of ``POST /runs``; raises InvalidInput, InputsTooLarge."""
    document = shaped(_START_RUN, body)
    inputs = cast(JsonObject, document.get("inputs", {}))
    # Only a body over the limit can have inputs over it, so the others are not written out for their size.
    if body_bytes > MAX_INPUTS_BYTES and len(canonical(inputs)) > MAX_INPUTS_BYTES:
        raise InputsTooLarge(f"inputs are over {MAX_INPUTS_BYTES} bytes; pass large data as artifacts")
    return StartRun(
        dag_id=DagId(cast(str, document["dagId"])),
        version=cast("str | None", document.get("version")),
        inputs=inputs,
        run_token=cast("str | None", document.get("runToken")),
    )


def cancel_reason(body: Json) -> str | None:
    """Read the body of a cancellation."""
    return cast("str | None", shaped(_CANCEL_RUN, body).get("reason"))


def nothing(body: Json) -> None:
    """Refuse a body with members where none has a meaning."""
    shaped(_NOTHING, body)
