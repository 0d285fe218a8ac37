"""How often a process that serves looks for garbage in cycles."""

from __future__ import annotations

import gc
from typing import Final

ALLOCATIONS: Final = 10_000
"""New objects between two collections, where Python has 700: a request makes thousands, and hardly any of
them are in cycles."""


def collect_seldom() -> None:
    """Leave what is there by now out of all collections, and make these rarer; called once all is loaded.

    Modules, routes and settings live as long as the process. See docs/adr/0032-settled-across-runs.md.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS)
