"""Follow the event stream through whatever interrupts it."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import httpx

from orchestrator_cli.client import Client, Unreached
from orchestrator_cli.errors import CommandError

_SILENT_S: Final = 40.0
"""The server sends at least a heartbeat every 15 seconds, unless it was told to take longer: it is gone."""
_PAUSES_S: Final = (0.2, 5.0)
"""Before the next try: first, and at most."""
_CURSOR_HEADER: Final = "X-Stream-Cursor"
_NDJSON: Final = "application/x-ndjson"


class EventStream:
    """The lines of the stream, each once, for as long as anybody reads them.

    What retrying cannot mend is a CommandError: a token that has expired, a filter that is none.
    """

    def __init__(
        self,
        client: Client,
        filters: Mapping[str, str],
        *,
        after: str | None = None,
        silent_s: float = _SILENT_S,
        tell: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """``after`` is a cursor, ``"0"`` for all events; ``tell`` hears of interruptions."""
        self._client = client
        self._filters = filters
        self._silent_s = silent_s
        self._tell = tell
        self.cursor = after
        """Where to go on; what was given out last lies before it."""

    def __iter__(self) -> Iterator[str]:
        pause = _PAUSES_S[0]
        interrupted = False
        while True:
            wait = 0.0
            try:
                for number, line in enumerate(self._connection()):
                    if interrupted:
                        self._tell("the stream goes on")
                        interrupted = False
                    # Who only takes connections, and ends them at once, is asked less and less often.
                    if number > 0:
                        pause = _PAUSES_S[0]
                    if line:
                        yield line
                why = "the server has ended it"
            except Unreached as error:
                why, wait = error.message, error.retry_after_s
            if not interrupted:
                self._tell(f"the stream is interrupted ({why}); it will go on where it was")
                interrupted = True
            # Not all who were cut off at once come back at once.
            time.sleep(wait + pause * random.uniform(0.5, 1.0))  # noqa: S311  # No secret.
            pause = min(2 * pause, _PAUSES_S[1])

    def _connection(self) -> Iterator[str]:
        """Give the lines of one connection, and empty ones when it is made and while it is idle."""
        query = dict(self._filters)
        if self.cursor is not None:
            query["after"] = self.cursor
        with self._client.answer("GET", "/runs/stream", query=query, silent_s=self._silent_s) as response:
            if not response.headers.get("Content-Type", "").startswith(_NDJSON):
                raise CommandError("GET /runs/stream: the answer is no event stream")
            self.cursor = self.cursor or response.headers.get(_CURSOR_HEADER)
            yield ""
            try:
                for line in response.iter_lines():
                    if line:
                        try:
                            self.cursor = str(json.loads(line)["cursor"])
                        except (ValueError, KeyError, TypeError):
                            return  # The connection was cut within it.
                    yield line
            except httpx.HTTPError as error:
                raise Unreached(f"{type(error).__name__}: {error}") from error
