from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import orchestrator_api
import shared
from orchestrator_api.errors import INTERNAL, MEANINGS, meaning_of
from shared.errors import NotFound, OrchestratorError

CODES = {
    400: {"INVALID_JSON", "INVALID_ARGUMENT", "INVALID_PAGE_TOKEN", "IDEMPOTENCY_KEY_REQUIRED"},
    401: {"UNAUTHENTICATED"},
    403: {"TENANT_REQUIRED", "TENANT_FORBIDDEN", "INSUFFICIENT_SCOPE"},
    404: {"NOT_FOUND", "DAG_NOT_FOUND", "RUN_NOT_FOUND", "STEP_NOT_FOUND", "ARTIFACT_NOT_FOUND"},
    406: {"NOT_ACCEPTABLE"},
    409: {
        "DAG_VERSION_CONFLICT",
        "DAG_DISABLED",
        "RUN_TOKEN_CONFLICT",
        "RUN_ALREADY_FINISHED",
        "IDEMPOTENCY_IN_PROGRESS",
    },
    413: {"BODY_TOO_LARGE", "INPUTS_TOO_LARGE"},
    415: {"UNSUPPORTED_MEDIA_TYPE"},
    422: {
        "VALIDATION_FAILED",
        "DAG_CYCLE",
        "UNKNOWN_PLUGIN",
        "SIGNATURE_REQUIRED",
        "SIGNATURE_INVALID",
        "INPUTS_INVALID",
        "IDEMPOTENCY_KEY_REUSED",
    },
    429: {"RATE_LIMITED"},
    500: {"INTERNAL"},
    503: {"UNAVAILABLE"},
}


def all_errors(of: type[OrchestratorError]) -> Iterator[type[OrchestratorError]]:
    yield of
    for kind in of.__subclasses__():
        yield from all_errors(kind)


def import_everything() -> None:
    """Import every module that could define an error, but those that are made to be run."""
    for package in (shared, orchestrator_api):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith((".gunicorn_conf", ".versions", ".env")):
                importlib.import_module(module.name)


def test_every_error_has_its_own_meaning() -> None:
    import_everything()
    of_the_project = {
        kind
        for kind in all_errors(OrchestratorError)
        if kind.__module__.partition(".")[0] in ("shared", "orchestrator_api")
    }
    assert of_the_project == set(MEANINGS)


def test_the_codes_are_those_of_the_documented_table() -> None:
    found: dict[int, set[str]] = {}
    for meaning in MEANINGS.values():
        found.setdefault(meaning.status, set()).add(meaning.code)
    assert found == CODES


@pytest.mark.parametrize("status", [429, 503])
def test_what_passes_by_itself_tells_when_to_come_back(status: int) -> None:
    assert all(meaning.retry_after_seconds for meaning in MEANINGS.values() if meaning.status == status)


def test_an_error_of_a_plugin_author_has_the_meaning_of_the_nearest_known() -> None:
    class RecipeNotFound(NotFound):
        pass

    assert meaning_of(RecipeNotFound) is MEANINGS[NotFound]
    assert meaning_of(OrchestratorError) is INTERNAL
