"""Wait for a fact, never for time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_PAUSE_S = 0.02


def eventually(fact: Callable[[], T], *, within: float = 10.0) -> T:
    """Ask for the fact again and again until it is true; return it.

    A fact that raises AssertionError is not true yet. When ``within`` seconds have
    passed, the last assertion, or the last value, is the failure.
    """
    deadline = time.monotonic() + within
    while True:
        value: T | None = None
        failure: AssertionError | None = None
        try:
            value = fact()
        except AssertionError as error:
            failure = error
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {within} s; last it was {value!r}") from failure
        time.sleep(_PAUSE_S)
