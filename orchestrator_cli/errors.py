"""What a command could not do, in words for the person at the terminal."""

from __future__ import annotations


class CommandError(Exception):
    """The command cannot go on; its message is all that the person gets to see."""
