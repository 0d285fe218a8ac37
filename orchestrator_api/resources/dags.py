"""DAG versions: publish, list, look at, disable, enable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from flask import Response, request, url_for

from orchestrator_api import query, render
from orchestrator_api.context import PREFIX, subject, tenant
from orchestrator_api.idempotency import Call
from orchestrator_api.listing import page
from orchestrator_api.paging import Key
from orchestrator_api.parts import parts
from orchestrator_api.responses import answer
from orchestrator_api.schemas.dag import dag_document
from orchestrator_api.schemas.run import nothing
from shared import signing
from shared.domain import definition, versions
from shared.domain.findings import Findings
from shared.domain.models import DagSpec, DagVersion, Json, JsonObject
from shared.services import dags


def publish(call: Call) -> Response:
    """Record a version of a DAG for good: 201, or 200 when it was recorded before."""
    spec, signature = _checked(call.body)
    dag, created = dags.publish(call.db, tenant(), spec, signature=signature, created_by=subject())
    location = url_for("dags.get", dag_id=dag.dag_id, version=dag.version)
    call.about = location.removeprefix(PREFIX)
    headers = {"Location": location, "ETag": _etag(dag)}
    return answer(render.dag_summary(dag), 201 if created else 200, headers)


def _checked(body: Json) -> tuple[DagSpec, JsonObject | None]:
    """Check a definition and its signature, and tell all that is wrong with either at once."""
    document, misshapen = dag_document(body)
    findings = Findings(misshapen)
    signed = parts().signatures.check(tenant(), document, findings)
    unsigned = {name: member for name, member in document.items() if name != "signature"}
    spec = definition.build(unsigned, check_uses=parts().check_uses, pools=parts().pools, findings=findings)
    signing.match(signed, spec)
    return spec, cast("JsonObject | None", document.get("signature"))


def list_versions() -> Response:
    """List versions by ``dagId``, then by version, the highest first."""
    dag_id = query.optional(request.args, "dagId", query.dag_id)
    active = query.optional(request.args, "active", query.flag)

    def read(after: Key | None, limit: int) -> Sequence[DagVersion]:
        last = None if after is None else _read_end(after)
        return dags.list_page(parts().db, tenant(), dag_id=dag_id, active=active, after=last, limit=limit)

    return page(
        read=read,
        stream=lambda: dags.stream(parts().db_of_streams, tenant(), dag_id=dag_id, active=active),
        end=_end,
        render=render.dag_summary,
    )


def _end(last: DagVersion, following: DagVersion) -> Key:
    """Name the last DAG and, only if the next version is of the same, which version it was."""
    if last.dag_id != following.dag_id:
        return (last.dag_id,)
    return last.dag_id, versions.precedence(last.version), last.version


def _read_end(end: Key) -> tuple[str, str | None, str | None]:
    dag_id, *version = map(str, end)
    return (dag_id, version[0], version[1]) if version else (dag_id, None, None)


def get(dag_id: str, version: str) -> Response:
    """Give a version with its definition, or 304 to a caller who has it as it is."""
    dag = dags.get(parts().db, tenant(), query.dag_id("dagId", dag_id), query.version("version", version))
    # Kept by the caller, yet asked for each time: another tenant may be the next to use the same cache.
    headers = {"ETag": _etag(dag), "Cache-Control": "private, no-cache"}
    response = answer(render.dag(dag), headers=headers)
    response.make_conditional(request)
    return response


def disable(call: Call, dag_id: str, version: str) -> Response:
    """Let a version take no new runs."""
    return _set_active(call, dag_id, version, active=False)


def enable(call: Call, dag_id: str, version: str) -> Response:
    """Let a version take new runs again."""
    return _set_active(call, dag_id, version, active=True)


def _set_active(call: Call, dag_id: str, version: str, *, active: bool) -> Response:
    of, at = query.dag_id("dagId", dag_id), query.version("version", version)
    call.about = f"/dags/{of}/{at}"
    nothing(call.body)
    dag = dags.set_active(call.db, tenant(), of, at, active=active)
    return answer(render.dag_summary(dag), headers={"ETag": _etag(dag)})


def _etag(dag: DagVersion) -> str:
    return f'"{dag.spec_hash}.{"active" if dag.active else "disabled"}"'
