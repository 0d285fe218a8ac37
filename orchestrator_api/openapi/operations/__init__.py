"""What each route says of itself in the OpenAPI document, one module a resource; by endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from orchestrator_api.openapi.operation import Operation
from orchestrator_api.openapi.operations import admin, artifacts, dags, docs, runs, steps

OPERATIONS: Final[Mapping[str, Operation]] = MappingProxyType(
    {
        **dags.OPERATIONS,
        **runs.OPERATIONS,
        **steps.OPERATIONS,
        **artifacts.OPERATIONS,
        **admin.OPERATIONS,
        **docs.OPERATIONS,
    }
)
