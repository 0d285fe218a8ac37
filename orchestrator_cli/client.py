"""A client of the REST API, as much of it as the commands use."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Self, cast
from uuid import uuid4

import httpx

from orchestrator_cli.errors import CommandError
from shared.domain.models import JsonObject

API = "/api/v1/orchestrator"
_TIMEOUT_S = 10.0
_RETRIED = frozenset({429, 502, 503, 504})
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 2.0
_WORD = re.compile(r"[!-~]+")


class Unreached(CommandError):
    """There is no server, or none that can answer now: the same call may succeed later."""

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


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
    """Calls the API as one tenant. Every failure is a CommandError that says what the server said.

    A call is made again and again for ``patience_s`` while the server is out of reach; a change is made
    once all the same.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str,
        tenant: str,
        patience_s: float = 0.0,
        tell: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """``tell`` hears once of a call that has to be made again."""
        self._patience_s = patience_s
        self._tell = tell
        headers = {
            "Authorization": f"Bearer {_word(token, 'the token')}",
            "X-Stella-Tenant": _word(tenant, "the tenant"),
        }
        # No proxy of the environment: the stack is on this machine.
        self._http = httpx.Client(
            base_url=_address(url) + API, headers=headers, timeout=_TIMEOUT_S, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.close()

    def publish(self, document: bytes) -> None:
        """Publish a DAG version; the same one again changes nothing."""
        self._call("POST", "/dags", content=document)

    def start_run(
        self, dag_id: str, inputs: JsonObject, *, version: str | None = None, run_token: str | None = None
    ) -> str:
        """Start a run, of the highest active version when none is named; give its id."""
        named = {"version": version, "runToken": run_token}
        more = {name: value for name, value in named.items() if value is not None}
        return str(self._call("POST", "/runs", json={"dagId": dag_id, "inputs": inputs, **more})["runId"])

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
        with self.answer("GET", f"/artifacts/{sha256}") as response, target.open("wb") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)

    @contextmanager
    def answer(
        self,
        method: str,
        path: str,
        *,
        json: JsonObject | None = None,
        content: bytes | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        silent_s: float = _TIMEOUT_S,
    ) -> Iterator[httpx.Response]:
        """Send one request, and lend its answer while it is read; Unreached when it may succeed later."""
        try:
            with self._http.stream(
                method,
                path,
                json=json,
                content=content,
                params=query,
                headers=dict(headers),
                timeout=httpx.Timeout(_TIMEOUT_S, read=silent_s),
            ) as response:
                if not response.is_success:
                    response.read()
                    raise _refusal(f"{method} {path}", response)
                yield response
        except httpx.TransportError as error:
            raise Unreached(f"{method} {path}: {str(error) or type(error).__name__}") from error
        except httpx.HTTPError as error:
            raise CommandError(f"{method} {path}: {error}") from error

    def _call(
        self, method: str, path: str, *, json: JsonObject | None = None, content: bytes | None = None
    ) -> Mapping[str, object]:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        if method == "POST":
            headers["Idempotency-Key"] = str(uuid4())
        until = time.monotonic() + self._patience_s
        pause = 0.0
        while True:
            try:
                with self.answer(method, path, json=json, content=content, headers=headers) as response:
                    response.read()
                    return _body(f"{method} {path}", response)
            except Unreached as error:
                told = pause > 0
                pause = max(min(2 * pause or _FIRST_PAUSE_S, _LONGEST_PAUSE_S), error.retry_after_s)
                if time.monotonic() + pause > until:
                    raise
                if not told:
                    self._tell(f"{error.message}; trying again for {self._patience_s:.0f} s")
            time.sleep(pause)


def _word(text: str, what: str) -> str:
    """Refuse what no header can carry, and do not show it: it may be a secret."""
    if _WORD.fullmatch(text) is None:
        raise CommandError(f"{what} has a character that it cannot have, such as a space or a line's end")
    return text


def _address(url: str) -> str:
    """Refuse what is no address of a server; it is not shown, as it may hold a password."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise CommandError("the server's address must be like http://127.0.0.1:8080")
    return url.rstrip("/")


def _body(call: str, response: httpx.Response) -> Mapping[str, object]:
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise CommandError(f"{call}: the answer is not this API's")
    return body


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


def _refusal(call: str, response: httpx.Response) -> CommandError:
    message = f"{call}: {_why(response)}"
    after = response.headers.get("Retry-After", "")
    # Also 409, when it says so: the same call is still being served.
    if response.status_code in _RETRIED or after:
        return Unreached(message, retry_after_s=float(after) if after.isdecimal() else 0.0)
    return CommandError(message)


def _why(response: httpx.Response) -> str:
    """Say what the error envelope says."""
    try:
        error = response.json()["error"]
        places = [f"\n  {item['field']}: {item['message']}" for item in error.get("details", [])]
        return f"{response.status_code} {error['code']}: {error['message']}" + "".join(places)
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}"
