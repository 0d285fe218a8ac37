"""Hints that a tenant has new events, from whoever wrote them to the processes that stream them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from celery import Celery

from shared.domain.models import TenantId
from shared.messaging.celery_app import KEY_PREFIX
from shared.messaging.hints import Hint, Hints, publish

UNHEARD_SECONDS: Final = 0.1
"""So long nothing is said of a tenant's new events after nobody has listened."""
_CHANNEL: Final = "events:"
_PREFIX: Final = KEY_PREFIX + _CHANNEL
_LOOK_SECONDS: Final = 0.1
"""How soon the channel of a tenant is heard that nobody here has asked for before."""


def send(app: Celery, tenants: Sequence[TenantId]) -> list[TenantId]:
    """Tell that these tenants have new events, in one round trip; give those whom nobody streams.

    Raises QueueUnavailable.
    """
    heard = publish(app, [(_CHANNEL + tenant, "") for tenant in tenants])
    return [tenant for tenant, listeners in zip(tenants, heard, strict=True) if not listeners]


@dataclass(frozen=True, slots=True)
class Told:
    """``new_events``: who has some, or may have. ``heard``: whose hints arrive."""

    new_events: frozenset[TenantId]
    heard: frozenset[TenantId]


class EventHints:
    """Where a process hears of the tenants whose events it streams, by one connection."""

    def __init__(self, redis_url: str) -> None:
        self._hints = Hints(redis_url)

    def hear(self, wanted: Callable[[], AbstractSet[TenantId]]) -> Iterator[Told]:
        """Give what is told as it comes, and several times a second whose hints arrive.

        ``wanted`` gives the tenants; it ends when there are none. Whose hints have just begun to arrive may
        have new events already. Raises QueueUnavailable once Redis is out of reach, or silent.
        """

        def channels() -> AbstractSet[str]:
            return {_PREFIX + tenant for tenant in wanted()}

        heard: frozenset[TenantId] = frozenset()
        for hints in self._hints.hear(channels, every_seconds=_LOOK_SECONDS):
            begun = frozenset(_tenant(hint) for hint in hints if hint.text is None)
            heard = (heard | begun) & frozenset(wanted())
            yield Told(new_events=frozenset(map(_tenant, hints)), heard=heard)

    def close(self) -> None:
        """Close the idle connections."""
        self._hints.close()


def _tenant(hint: Hint) -> TenantId:
    return TenantId(hint.channel.removeprefix(_PREFIX))
