"""Hints that a run was cancelled, from the API to the workers, so that they look at once.

A hint is sent after the commit and may be lost: a worker learns of the cancellation with
the next renewal of its leases all the same, and only from the ledger. So nothing is
believed of a hint but that it may be worth a look.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final
from uuid import UUID

from celery import Celery

from shared.domain.models import RunId
from shared.messaging.celery_app import KEY_PREFIX
from shared.messaging.complaint import Complaint
from shared.messaging.hints import Hint, Hints, publish

_CHANNEL: Final = "cancelled"
_LONGEST_WAIT_SECONDS: Final = 1.0


def send(app: Celery, run_ids: Collection[RunId]) -> None:
    """Tell all workers that these runs were cancelled, in one round trip; raises QueueUnavailable."""
    publish(app, [(_CHANNEL, str(run_id)) for run_id in run_ids])


class CancelHints:
    """Where a worker hears the hints, by a connection of its own."""

    def __init__(self, redis_url: str) -> None:
        self._hints = Hints(redis_url)
        self.forged = Complaint("cancel_hint_refused")
        """Messages that name no run."""

    def hear(self) -> Iterator[frozenset[RunId]]:
        """Give the runs that were hinted at as the hints come, and none at least once a second.

        Raises QueueUnavailable once Redis is out of reach, or silent.
        """
        channels = frozenset({KEY_PREFIX + _CHANNEL})
        for hints in self._hints.hear(lambda: channels, every_seconds=_LONGEST_WAIT_SECONDS):
            yield frozenset(self._runs(hints))

    def close(self) -> None:
        """Close the idle connections."""
        self._hints.close()

    def _runs(self, hints: list[Hint]) -> Iterator[RunId]:
        for hint in hints:
            if hint.text is not None:
                try:
                    yield RunId(UUID(hint.text.decode("ascii")))
                except ValueError as error:
                    self.forged.note(error)
