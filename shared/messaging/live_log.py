"""The logs of running attempts on their way from a worker to the API: pieces in Redis, for a while.

They are copies: the worker has the log in memory, and stores it as an artifact when the
attempt ends. Each piece says where in the log it belongs, so whoever reads them notices
what is missing, and what is there twice. Redis may lose any of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, cast

from redis.exceptions import RedisError

from shared.domain.models import RunId, TenantId
from shared.errors import QueueUnavailable
from shared.messaging.redis_client import open_client

START: Final = "0-0"
"""Before the first piece of a log."""

_KEPT_SECONDS = 120
_KEPT_AFTER_END_SECONDS = 5
_TIMEOUT_SECONDS = 1.0
_PIECES_AT_ONCE = 16

_Streams = list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]


@dataclass(frozen=True, slots=True)
class LogKey:
    """Whose log it is. Not to be read for anybody before the ledger has said that the run is theirs."""

    tenant: TenantId
    run_id: RunId
    step_no: int
    attempt: int

    def __str__(self) -> str:
        return f"orchestrator:log:{self.tenant}:{self.run_id}:{self.step_no}:{self.attempt}"


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a log, and how many come before them."""

    offset: int
    data: bytes

    def beyond(self, known: int) -> bytes:
        """Give what it adds to the first ``known`` bytes: nothing, too, if bytes between them are missing."""
        return self.data[known - self.offset :] if self.offset <= known else b""


class LiveLogs:
    """Pieces of logs, one Redis stream an attempt. Each method may raise QueueUnavailable, after a second."""

    def __init__(self, redis_url: str) -> None:
        self._client = open_client(redis_url, timeout_seconds=_TIMEOUT_SECONDS)

    def publish(
        self, pieces: Mapping[LogKey, Piece], *, keep: Collection[LogKey], ended: Collection[LogKey]
    ) -> None:
        """Add pieces, keep logs from being forgotten, and let go of those that ended: one round trip.

        After an error any part of it may have been done, and it may be done again.
        """
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for key, piece in pieces.items():
                    pipe.xadd(str(key), {"offset": piece.offset, "data": piece.data})
                for key in {*pieces, *keep}:
                    pipe.expire(str(key), _KEPT_SECONDS)
                for key in ended:
                    pipe.expire(str(key), _KEPT_AFTER_END_SECONDS)
                pipe.execute()
        except (RedisError, OSError) as error:
            raise QueueUnavailable("Redis is out of reach") from error

    def read(self, key: LogKey, after: str) -> tuple[list[Piece], str]:
        """Read the next pieces, and where to go on; none when there is nothing new."""
        try:
            answer = self._client.xread({str(key): after}, count=_PIECES_AT_ONCE)
        except (RedisError, OSError) as error:
            raise QueueUnavailable("Redis is out of reach") from error
        pieces: list[Piece] = []
        for _, entries in cast("_Streams", answer):
            for entry_id, members in entries:
                pieces.append(Piece(int(members[b"offset"]), members[b"data"]))
                after = entry_id.decode()
        return pieces, after

    def close(self) -> None:
        """Close the idle connections."""
        self._client.close()
