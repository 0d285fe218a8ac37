"""How long this side waits for PostgreSQL.

The server's own time-outs run on the server: one that is frozen, or behind a network
that swallows packets, never says that time is up. So the waiting is done here: the
driver hands it over (``set_wait_callback``), for whatever it waits for, a connection, a
query or a commit. When time is up, the driver closes the connection, and says so.
"""

from __future__ import annotations

import select
import time

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, set_wait_callback
from psycopg2.extensions import connection as Connection

_EVENTS = {POLL_READ: select.POLLIN, POLL_WRITE: select.POLLOUT}


class Silent(psycopg2.OperationalError):
    """PostgreSQL did not answer in time. The connection is closed; what was asked may yet be done."""

    def __init__(self, waited: float) -> None:
        super().__init__("PostgreSQL does not answer")
        self.waited = waited
        """For how many seconds, for this one answer."""


class TimedConnection(Connection):
    """A connection whose holder waits ``left`` seconds in all, and no longer.

    Only waiting counts, not what the holder does in between: a server that is silent
    is noticed whatever else a machine is busy with.
    """

    def __init__(self, dsn: str, *, seconds: float) -> None:
        self.left = seconds
        # Opening it is waited for already.
        super().__init__(dsn)


def install() -> None:
    """Have the driver wait by ``_wait``, in this whole process. Again is as well as once."""
    set_wait_callback(_wait)


def has_arrived(connection: Connection) -> bool:
    """Tell whether there is anything to read, or the connection has ended."""
    # ``select.select`` takes no descriptor above 1,023.
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    return bool(poller.poll(0))


def _wait(connection: Connection) -> None:
    """Wait until the driver has what it wants of ``connection``. Whatever is raised here closes it."""
    waited = 0.0
    while (state := connection.poll()) != POLL_OK:
        poller = select.poll()
        # While it connects, the descriptor may change from one address to the next.
        poller.register(connection.fileno(), _EVENTS[state])
        if not isinstance(connection, TimedConnection):
            # Another library's: it sets no limit, and gets none.
            poller.poll()
            continue
        begun = time.monotonic()
        if not poller.poll(max(0.0, connection.left) * 1000):
            raise Silent(waited + time.monotonic() - begun)
        took = time.monotonic() - begun
        waited += took
        connection.left -= took
