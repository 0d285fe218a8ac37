"""Try the API by its own OpenAPI document: schemathesis, all phases, all checks, from a fixed seed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from uuid import uuid4

import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import Failure
from schemathesis.core.parameters import ParameterLocation
from schemathesis.engine import from_schema
from schemathesis.engine.events import NonFatalError, ScenarioFinished
from schemathesis.hooks import GLOBAL_HOOK_DISPATCHER
from schemathesis.openapi.checks import RejectedPositiveData

from tests.support.rest import API, Document

SEED = 20_261_121
TENANT, OTHER_TENANT = "acme", "initech"
EXAMPLES = ("policy-refresh", "nightly-2026-11-21")

ACCEPTED = ["2xx", "304", "401", "403", "404", "409", "416", "429"]
"""What may be answered to a call that fits the document. It may name another tenant, what does not exist,
what its state forbids, or a range behind the end; it must never break a rule of form."""

REFUSED = ["400", "401", "403", "404", "405", "406", "413", "414", "415", "416", "422", "431"]
"""What must be answered to a call that does not."""

NO_RULE_OF_FORM = frozenset({"UNKNOWN_PLUGIN", "INVALID_PAGE_TOKEN", "INPUTS_INVALID", "SIGNATURE_INVALID"})
"""Refusals that no schema can foresee: of a page token or a signature that somebody made up, of a plugin that
the installation does not have, and of inputs that do not fit the schema which the DAG brings along."""


@dataclass(slots=True)
class Tried:
    """What came of it: how often each operation gave each status, and what was wrong."""

    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def calls(self) -> int:
        return sum(sum(statuses.values()) for statuses in self.statuses.values())


def try_all(
    document: Document, url: str, *, cases: int, token: str, known: Mapping[str, Sequence[str]]
) -> Tried:
    """Make ``cases`` calls of each operation, and more; ``known`` gives parameters that lead somewhere."""
    config = SchemathesisConfig.from_dict(_settings(cases, token, known))
    schema = schemathesis.openapi.from_dict(document, config=config)
    schema.config.update(base_url=url + API)
    schema.hooks.register_hook_with_name(_is_failure, "filter_failure")
    tried = Tried()
    with _before_each_call(_make_sense):
        for event in from_schema(schema).execute():
            if isinstance(event, NonFatalError):
                tried.failures.append(f"{event.label}: {event.value!r}")
            elif isinstance(event, ScenarioFinished):
                _note(event, tried)
    return tried


def _settings(cases: int, token: str, known: Mapping[str, Sequence[str]]) -> Document:
    names = {name: name.replace(".", "-") for name in known}
    return {
        "seed": SEED,
        "continue-on-failure": True,
        "auth": {"openapi": {"token": {"bearer": token}}},
        "generation": {"max-examples": cases, "deterministic": True, "database": "none"},
        "dictionaries": {names[name]: {"values": list(values)} for name, values in known.items()},
        "parameters": {name: {"dictionary": names[name], "probability": 0.8} for name in known},
        "operations": [
            {
                "include-operation-id": "runs.start",
                "parameters": {"body.dagId": {"dictionary": names["query.dagId"], "probability": 0.8}},
            },
            # Its answer has no end. What it gives is held to the document in test_stream.py.
            {"include-operation-id": "stream.follow", "enabled": False},
        ],
        "checks": {
            "positive_data_acceptance": {"expected-statuses": ACCEPTED},
            "negative_data_rejection": {"expected-statuses": REFUSED},
        },
    }


@contextmanager
def _before_each_call(hook: Any) -> Iterator[None]:
    GLOBAL_HOOK_DISPATCHER.register_hook_with_name(hook, "before_call")
    try:
        yield
    finally:
        GLOBAL_HOOK_DISPATCHER.unregister(hook)


def _make_sense(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Give a call that fits the document what no schema asks for: a tenant of the token, names of its own."""
    meta, headers, body = case.meta, case.headers, case.body
    if meta is None:
        return
    if not meta.is_negative_at(ParameterLocation.HEADER):
        # Limits are set for a tenant of its own, lest they hold up all other calls.
        tenant = OTHER_TENANT if case.operation.label == "PUT /admin/limits" else TENANT
        for name, value in (("X-Stella-Tenant", tenant), ("Idempotency-Key", str(uuid4()))):
            if name in headers:
                headers[name] = value
    if case.operation.path.endswith("/logs") and (case.query or {}).get("follow") in (True, "true"):
        # Nobody waits for the end of a step that sleeps.
        case.query["follow"] = "false"
    if meta.generation.mode.is_positive and isinstance(body, dict):
        if case.operation.label == "POST /dags":
            case.body = _not_of_the_example(sensible(body), "dagId")
        elif case.operation.label == "POST /runs":
            case.body = _not_of_the_example(body, "runToken")


def sensible(dag: Document) -> Document:
    """Keep of a DAG of the right form what has a meaning: plugins and pools that exist, edges forwards."""
    ids = [step["id"] for step in dag["steps"]]
    if len(set(ids)) < len(ids):
        ids = [f"{step_id[:100]}-{i}" for i, step_id in enumerate(ids)]
    steps = [
        {**step, "id": step_id, "uses": "noop", **_if_in(step, pool="default", when="true")}
        for step, step_id in zip(dag["steps"], ids, strict=True)
    ]
    if "${{" in json.dumps(steps):
        steps = [{**step, **_if_in(step, **{"with": {}})} for step in steps]
    forwards = [{"from": before, "to": after} for before, after in pairwise(ids)]
    edges = _if_in(dag, edges=forwards[: len(dag.get("edges", ()))])
    return {**dag, "steps": steps, **edges, **_if_in(dag, metadata=_metadata(dag.get("metadata", {})))}


def _not_of_the_example(body: Document, name: str) -> Document:
    """Give a name anew that the document's example has: the systematic phases vary all else around it."""
    if body.get(name) not in EXAMPLES:
        return body
    return {**body, name: f"{body[name]}-{uuid4()}"}


def _metadata(written: Document) -> Document:
    return {**written, **_if_in(written, inputsSchema={"type": "object"})}


def _if_in(written: Document, **members: object) -> Document:
    return {name: value for name, value in members.items() if name in written}


def _is_failure(context: HookContext, failure: Failure, case: Case[Any], response: Response) -> bool:
    if not isinstance(failure, RejectedPositiveData):
        return True
    return response.json()["error"]["code"] not in NO_RULE_OF_FORM


def _note(event: ScenarioFinished, tried: Tried) -> None:
    recorder = event.recorder
    for case_id, interaction in recorder.interactions.items():
        if interaction.response is not None:
            label = recorder.cases[case_id].value.operation.label
            tried.statuses.setdefault(label, Counter())[interaction.response.status_code] += 1
        for check in recorder.checks.get(case_id, ()):
            if check.failure_info is not None:
                failure = check.failure_info.failure
                what = f"{event.phase.value}: {check.name}: {failure.title}\n{failure.message}"
                tried.failures.append(f"{what}\n{_shown(interaction)}")


def _shown(interaction: Any) -> str:
    request, response = interaction.request, interaction.response
    headers = {name: values for name, values in request.headers.items() if name != "Authorization"}
    answer = "no answer" if response is None else f"{response.status_code} {response.content[:600]!r}"
    return f"{request.method} {request.uri} {headers}\n{(request.body or b'')[:600]!r}\n-> {answer}"
