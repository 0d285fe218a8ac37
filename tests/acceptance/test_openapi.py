"""What the OpenAPI document allows is not refused for its form, all else is, and no answer leaves it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import conformance
from tests.support.rest import Document, Rest, shell
from tests.support.site import running_site

CASES = 25
"""Calls of each operation beside those of the systematic phases; ``make openapi`` makes more."""


def known_values(acme: Rest, globex: Rest) -> dict[str, list[str]]:
    """Make runs of two tenants, ended and under way, and give the names of all that can then be asked for."""
    steps = [shell("a", "echo 1 > $ORCH_OUTPUT_DIR/x"), {"id": "b", "uses": "noop"}]
    acme.publish("known", steps, "a>b", metadata={"inputsSchema": {"type": "object"}})
    acme.publish("waits", [{"id": "a", "uses": "sleep", "with": {"ms": 600_000}}])
    globex.publish("theirs", [{"id": "a", "uses": "noop"}])
    ended = acme.start("known", runToken="first")
    acme.ended(ended)
    underway = [acme.start("waits") for _ in range(5)]
    step = acme.step(ended, "a")
    artifacts = [file["hash"] for file in step["outputs"]["files"].values()]
    return {
        "header.X-Stella-Tenant": ["acme"],
        "header.If-None-Match": [
            acme.send("GET", path).headers["ETag"]
            for path in ("/dags/known/1.0.0", f"/artifacts/{artifacts[0]}")
        ],
        "header.Range": ["bytes=0-0", "bytes=1-", "bytes=-1", "bytes=0-0,1-1", "bytes=9-"],
        "path.dagId": ["known", "theirs"],
        "path.version": ["1.0.0"],
        "path.runId": [ended, *underway, globex.start("theirs")],
        "path.stepId": ["a", "b"],
        "path.hash": artifacts,
        "query.attempt": ["1"],
        "query.dagId": ["known", "waits"],
    }


def test_the_api_is_as_its_document_says(
    tmp_path: Path, request: pytest.FixtureRequest, show: Callable[[str], None]
) -> None:
    cases = request.config.getoption("--cases") or CASES
    with (
        running_site(tmp_path / "data") as site,
        site.rest("acme") as acme,
        site.rest("globex") as globex,
    ):
        known = known_values(acme, globex)
        document = acme.get("/openapi.json")
        token = site.token()
        tried = conformance.try_all(document, site.stack.url, cases=cases, token=token, known=known)
    show(f"{tried.calls} calls of {len(tried.statuses)} operations: {len(tried.failures)} failures")
    for label, statuses in sorted(tried.statuses.items()):
        show(f"{label}: {dict(sorted(statuses.items()))}")
    assert not tried.failures, "\n\n".join(tried.failures[:20])
    assert set(tried.statuses) == labels(document) - {"GET /runs/stream"}
    unserved = [
        label for label, statuses in tried.statuses.items() if not any(200 <= s < 300 for s in statuses)
    ]
    assert not unserved


def labels(document: Document) -> set[str]:
    return {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
