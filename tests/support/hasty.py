"""The web process with half a second of patience, so that a test of slow clients takes no minute."""

from __future__ import annotations

from gunicorn.http.message import Request
from gunicorn.workers.gthread import TConn, ThreadWorker

from orchestrator_api import server


class Worker(server.Worker):
    """Gives up on a client that takes nothing for half a second."""

    def handle_request(self, req: Request, conn: TConn) -> bool:
        conn.sock.settimeout(0.5)
        return ThreadWorker.handle_request(self, req, conn)
