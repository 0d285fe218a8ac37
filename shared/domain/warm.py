"""What can be loaded ahead of its first use, and what was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from shared.domain.expressions import Hole, compile_check, holes_in
from shared.domain.models import DagId, JsonObject, Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class DagName:
    """A version of a DAG."""

    dag_id: DagId
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedDag:
    """A version whose expressions are compiled."""

    dag_id: DagId
    version: str
    spec_hash: Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPlugin:
    """A plugin as a process has it, which may not be as another has it."""

    name: str
    version: str
    digest: Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What one process has loaded. A plugin that it does not have is not among them."""

    dags: tuple[LoadedDag, ...]
    plugins: tuple[LoadedPlugin, ...]


def compile_expressions(definition: JsonObject) -> None:
    """Compile every expression of a recorded definition into the cache that steps are run from."""
    for step in cast("Sequence[JsonObject]", definition["steps"]):
        when = step.get("when")
        if isinstance(when, str):
            compile_check(when)
        for _, hole in holes_in(cast("JsonObject", step["with"])):
            if isinstance(hole, Hole):
                compile_check(hole.source)
