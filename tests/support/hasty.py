"""The web process with half a second of patience, so that a test of slow clients takes no minute."""

from __future__ import annotations

import socket

from orchestrator_api import server
from orchestrator_api.connections import Patience


class Worker(server.Worker):
    """Grants so little that a byte every 50 ms is too slow and 100 kB a second is not."""

    patience = Patience(
        head_seconds=0.5, body_seconds=0.5, answer_seconds=0.5, bytes_per_second=50_000, linger_seconds=0.2
    )

    def accept(self, listener: socket.socket) -> None:
        # Connections inherit it: else the kernel would take megabytes before a client's not reading shows.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8_192)
        super().accept(listener)
