"""The shape of a request to load definitions and plugins, and the typed values that it carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from marshmallow import Schema, fields, validate

from orchestrator_api.schemas.check import shaped
from orchestrator_api.schemas.fields import Text
from shared.domain.models import DagId, Json, JsonObject

MAX_DAGS: Final = 20
"""Each may take a second to compile, in every process."""
MAX_PLUGINS: Final = 100

WARM_DAG = Schema.from_dict(
    {"dagId": Text(required=True, most=128), "version": Text(most=128)}, name="WarmDag"
)

WARM = Schema.from_dict(
    {
        "dags": fields.List(fields.Nested(WARM_DAG), validate=validate.Length(max=MAX_DAGS)),
        "plugins": fields.List(Text(most=255), validate=validate.Length(max=MAX_PLUGINS)),
    },
    name="Warm",
)

_WARM = WARM()


@dataclass(frozen=True, slots=True, kw_only=True)
class Warm:
    """What a caller wants loaded: versions (the highest active one for ``None``) and plugins.

    ``plugins`` is ``None`` for all of them: that is what an empty body asks for.
    """

    dags: tuple[tuple[DagId, str | None], ...]
    plugins: tuple[str, ...] | None


def warm_request(body: Json) -> Warm:
    """Read the body of ``POST /admin/warm``; raises InvalidInput."""
    document = shaped(_WARM, body)
    dags = cast("Sequence[JsonObject]", document.get("dags", []))
    named = [(DagId(cast(str, dag["dagId"])), cast("str | None", dag.get("version"))) for dag in dags]
    plugins = cast("Sequence[str]", document.get("plugins", []))
    return Warm(dags=tuple(named), plugins=tuple(plugins) if document else None)
