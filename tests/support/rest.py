"""The REST API as anybody's HTTP client sees it: requests, statuses, JSON."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Self
from uuid import uuid4

import httpx

from tests.support.eventually import eventually
from tests.support.openapi import check_response

API = "/api/v1/orchestrator"
Document = dict[str, Any]


class Rest:
    """Calls the API with one token for one tenant."""

    def __init__(self, url: str, *, token: str, tenant: str) -> None:
        self.tenant = tenant
        headers = {"Authorization": f"Bearer {token}", "X-Stella-Tenant": tenant}
        self._http = httpx.Client(base_url=url + API, headers=headers, timeout=20, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        body: Document | None = None,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request; give the answer, whatever it is, if it is as the OpenAPI document has it."""
        key = {"Idempotency-Key": str(uuid4())} if method == "POST" else {}
        response = self._http.request(
            method, path, json=body, content=content, headers={**key, **(headers or {})}
        )
        check_response(
            method, response.request.url.path, response.status_code, response.headers, response.content
        )
        return response

    def get(self, path: str) -> Document:
        """Read a document that has to be there."""
        return _document(self.send("GET", path))

    def post(self, path: str, body: Document) -> Document:
        """Send what has to be accepted."""
        return _document(self.send("POST", path, body=body))

    def publish(self, dag_id: str, steps: list[Document], *edges: str, **more: object) -> Document:
        """Publish version 1.0.0 of a DAG; an edge is written ``"a>b"``."""
        pairs = [edge.split(">") for edge in edges]
        return self.post(
            "/dags",
            {
                "dagId": dag_id,
                "version": "1.0.0",
                "steps": steps,
                "edges": [{"from": source, "to": target} for source, target in pairs],
                **more,
            },
        )

    def start(self, dag_id: str, **members: object) -> str:
        """Start a run; give its id."""
        return str(self.post("/runs", {"dagId": dag_id, **members})["runId"])

    def run(self, run_id: str) -> Document:
        """Read a run with its steps."""
        return self.get(f"/runs/{run_id}")

    def step(self, run_id: str, step_id: str) -> Document:
        """Read a step with its attempts."""
        return self.get(f"/runs/{run_id}/steps/{step_id}")

    def attempts(self, run_id: str, step_id: str) -> list[str]:
        """List how the attempts at a step ended."""
        return [attempt["status"] for attempt in self.step(run_id, step_id)["attempts"]]

    def runs(self, query: str = "") -> list[Document]:
        """List the tenant's runs, page after page."""
        found: list[Document] = []
        token = ""
        while True:
            page = self.get(f"/runs?page_size=500{query}{token}")
            found += page["items"]
            if "next_page_token" not in page:
                return found
            token = f"&page_token={page['next_page_token']}"

    def following(self, run_id: str, step_id: str) -> AbstractContextManager[httpx.Response]:
        """Follow the log of a step; the response is read piece by piece within the block."""
        return self._http.stream("GET", f"/runs/{run_id}/steps/{step_id}/logs?follow=true")

    def ended(self, run_id: str, *, within: float = 30.0) -> Document:
        """Wait for the end of a run; give it."""

        def end() -> Document | None:
            found = self.run(run_id)
            return None if found["status"] == "running" else found

        document = eventually(end, within=within)
        assert document is not None
        return document

    def all_ended(self, *, within: float = 60.0) -> list[Document]:
        """Wait for the end of every run of the tenant; give them."""
        eventually(lambda: not self.get("/runs?status=running&page_size=1")["items"], within=within)
        return self.runs()

    def artifact(self, sha256: str) -> bytes:
        """Download an artifact, which must be what its name says."""
        response = self.send("GET", f"/artifacts/{sha256}")
        assert response.is_success, response.text
        assert hashlib.sha256(response.content).hexdigest() == sha256
        return response.content


def by_step(run: Document) -> dict[str, str]:
    """Tell for each step of a run how it ended: the error code, where there is one, else the status."""
    return {step["stepId"]: step["errorCode"] or step["status"] for step in run["steps"]}


def seconds_between(earlier: str, later: str) -> float:
    """Tell how much later one of the API's timestamps is than another."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def shell(step_id: str, script: str, **options: object) -> Document:
    """Write a command step that runs a shell script; ``env`` is its environment."""
    params: Document = {"argv": ["/bin/sh", "-c", script], "env": options.pop("env", {})}
    return {"id": step_id, "uses": "command", "with": params, **options}


def _document(response: httpx.Response) -> Document:
    assert response.is_success, f"{response.status_code} {response.text}"
    answer: Document = response.json()
    return answer
