"""The shapes of requests about runs, and the typed values that they carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

from orchestrator_api.schemas.check import shape, shaped
from orchestrator_api.schemas.fields import Known, Object, Text
from shared.domain.hashing import canonical
from shared.domain.models import DagId, Json, JsonObject
from shared.errors import InputsTooLarge, Problem

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


def start_run(body: Json, body_bytes: int) -> tuple[StartRun | None, list[Problem]]:
    """Read the body of ``POST /runs``; give it with what is wrong with its shape.

    ``None`` when it is not known what would be started. Raises InvalidInput when the body is no
    object, and InputsTooLarge, whatever else is wrong.
    """
    document, problems = shape(_START_RUN, body)
    inputs = cast("JsonObject | None", document.get("inputs", {}))
    # Only a body over the limit can have inputs over it, so the others are not written out for their size.
    if inputs and body_bytes > MAX_INPUTS_BYTES and len(canonical(inputs)) > MAX_INPUTS_BYTES:
        raise InputsTooLarge(f"inputs are over {MAX_INPUTS_BYTES} bytes; pass large data as artifacts")
    dag_id, version = document.get("dagId"), document.get("version", "")
    if dag_id is None or version is None or inputs is None:
        return None, problems
    wanted = StartRun(
        dag_id=DagId(cast(str, dag_id)),
        version=cast(str, version) or None,
        inputs=inputs,
        run_token=cast("str | None", document.get("runToken")),
    )
    return wanted, problems


def cancel_reason(body: Json) -> str | None:
    """Read the body of a cancellation."""
    return cast("str | None", shaped(_CANCEL_RUN, body).get("reason"))


def nothing(body: Json) -> None:
    """Refuse a body with members where none has a meaning."""
    shaped(_NOTHING, body)
