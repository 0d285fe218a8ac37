"""What a command could not do, in words for the person at the terminal."""

from __future__ import annotations

import click


class CommandError(click.ClickException):
    """The command cannot go on; its message is all that the person gets to see, and the exit status is 1."""
