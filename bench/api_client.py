"""A client of the REST API that costs as little as it can: the machine is shared with what it measures."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from typing import Self
from urllib.parse import urlencode
from uuid import uuid4

from bench.subject import TIMEOUT_S, BenchError
from shared.domain.models import JsonObject

API = "/api/v1/orchestrator"
_KEEP_S = 2.0


class ApiClient:
    """One kept connection, for one tenant; of one thread at a time."""

    def __init__(self, host: str, port: int, *, token: str, tenant: str) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        self._used_at = float("-inf")
        self._headers = {
            "Authorization": f"Bearer {token}",
            "X-Stella-Tenant": tenant,
            "Content-Type": "application/json",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._connection.close()

    def get(self, path: str, query: Mapping[str, str] | None = None) -> JsonObject:
        """Read a resource; BenchError unless the answer is a success."""
        return self._call("GET", path + (f"?{urlencode(query)}" if query else ""), None)

    def post(self, path: str, body: JsonObject) -> JsonObject:
        """Post a document; BenchError unless the answer is a success."""
        return self._call("POST", path, json.dumps(body).encode())

    def _call(self, method: str, path: str, body: bytes | None) -> JsonObject:
        self._let_go_if_idle()
        try:
            self._connection.request(method, API + path, body, self._headers | _key(method))
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            # The next call begins with a new one.
            self._connection.close()
            raise BenchError(f"{method} {path}: {error!r}") from error
        if not 200 <= response.status < 300:
            raise BenchError(f"{method} {path}: {response.status} {text.decode(errors='replace')[:500]}")
        answer: JsonObject = json.loads(text)
        return answer

    def _let_go_if_idle(self) -> None:
        """Connect anew after a pause: the server may be about to end an idle connection."""
        now = time.monotonic()
        if now - self._used_at > _KEEP_S:
            self._connection.close()
        self._used_at = now


def _key(method: str) -> dict[str, str]:
    """Give a call that changes something a key of its own."""
    return {"Idempotency-Key": str(uuid4())} if method == "POST" else {}
