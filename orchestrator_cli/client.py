"""A client of the REST API, as much of it as the commands use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self, cast
from uuid import uuid4

import httpx

from orchestrator_cli.errors import CommandError
from shared.domain.models import JsonObject

API = "/api/v1/orchestrator"
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """A step of a run, as far as a person wants to see it."""

    step_id: str
    status: str
    attempt: int
    seconds: float | None
    """From the start of its first attempt to its end; None while it has not ended."""
    error_code: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run and its steps, in topological order."""

    run_id: str
    status: str
    steps: tuple[StepView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """A file that a step wrote, by its name in the step's output folder."""

    name: str
    sha256: str
    size_bytes: int


class Client:
    """Calls the API as one tenant. Every failure is a CommandError that says what the server said."""

    def __init__(self, url: str, *, token: str, tenant: str) -> None:
        headers = {"Authorization": f"Bearer {token}", "X-Stella-Tenant": tenant}
        # No proxy of the environment: the stack is on this machine.
        self._http = httpx.Client(base_url=url + API, headers=headers, timeout=_TIMEOUT_S, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.close()

    def publish(self, document: bytes) -> None:
        """Publish a DAG version; the same one again changes nothing."""
        self._call("POST", "/dags", content=document)

    def start_run(self, dag_id: str, inputs: JsonObject) -> str:
        """Start a run of the highest active version; give its id."""
        return str(self._call("POST", "/runs", json={"dagId": dag_id, "inputs": inputs})["runId"])

    def run(self, run_id: str) -> RunView:
        """Read a run and its steps."""
        body = self._call("GET", f"/runs/{run_id}")
        steps = cast("list[dict[str, object]]", body["steps"])
        return RunView(run_id=run_id, status=str(body["status"]), steps=tuple(_step(step) for step in steps))

    def output_files(self, run_id: str, step_id: str) -> list[OutputFile]:
        """List the files that a step wrote."""
        outputs = self._call("GET", f"/runs/{run_id}/steps/{step_id}").get("outputs") or {}
        files = cast("dict[str, dict[str, dict[str, object]]]", outputs).get("files", {})
        return [
            OutputFile(name=name, sha256=str(file["hash"]), size_bytes=int(str(file["size"])))
            for name, file in sorted(files.items())
        ]

    def download(self, sha256: str, target: Path) -> None:
        """Write an artifact to a file."""
        with self._answer("GET", f"/artifacts/{sha256}") as response, target.open("wb") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)

    def _call(
        self, method: str, path: str, *, json: JsonObject | None = None, content: bytes | None = None
    ) -> Mapping[str, object]:
        with self._answer(method, path, json=json, content=content) as response:
            response.read()
            body: Mapping[str, object] = response.json()
            return body

    @contextmanager
    def _answer(
        self, method: str, path: str, *, json: JsonObject | None = None, content: bytes | None = None
    ) -> Iterator[httpx.Response]:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        if method == "POST":
            headers["Idempotency-Key"] = str(uuid4())
        try:
            with self._http.stream(method, path, json=json, content=content, headers=headers) as response:
                if not response.is_success:
                    response.read()
                    raise CommandError(f"{method} {path}: {_why(response)}")
                yield response
        except httpx.HTTPError as error:
            raise CommandError(f"{method} {path}: {error}") from error


def _step(body: Mapping[str, object]) -> StepView:
    code, message = body.get("errorCode"), body.get("errorMessage")
    return StepView(
        step_id=str(body["stepId"]),
        status=str(body["status"]),
        attempt=int(str(body.get("attempt", 0))),
        seconds=_seconds(body.get("startedUtc"), body.get("endedUtc")),
        error_code=None if code is None else str(code),
        error_message=None if message is None else str(message),
    )


def _seconds(started: object, ended: object) -> float | None:
    if not isinstance(started, str) or not isinstance(ended, str):
        return None
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()


def _why(response: httpx.Response) -> str:
    """Say what the error envelope says."""
    try:
        error = response.json()["error"]
        places = [f"\n  {item['field']}: {item['message']}" for item in error.get("details", [])]
        return f"{response.status_code} {error['code']}: {error['message']}" + "".join(places)
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}"
