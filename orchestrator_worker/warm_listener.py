"""Loads what operators ask to have loaded, and says so in the ledger."""

from __future__ import annotations

import threading

import structlog

from shared.domain.models import WorkerId
from shared.errors import Unavailable
from shared.messaging.complaint import Complaint
from shared.plugins import Catalog
from shared.services import warm
from shared.services.warm import WarmRequest
from shared.store.db import Database

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()

POLL_SECONDS = 1.0


class WarmListener:
    """Looks for requests once a second, in a thread that no lease waits for.

    ``failed`` counts looks that PostgreSQL did not answer, and requests that could not be served.
    """

    def __init__(self, db: Database, catalog: Catalog, worker_id: WorkerId) -> None:
        self._db = db
        self._catalog = catalog
        self._worker_id = worker_id
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="warm-listener", daemon=True)
        self.failed = Complaint("warm_requests_not_read")

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """End the thread. One that hangs in PostgreSQL is left behind."""
        self._closed.set()
        self._thread.join(1.0)

    def answer_all(self) -> None:
        """Load what is asked for and answer; raises StoreUnavailable."""
        for request in warm.unanswered(self._db, self._worker_id):
            try:
                self._answer(request)
            except Unavailable:
                raise
            except Exception as error:
                # What cannot be loaded stays unanswered, and keeps no other request from being answered.
                self.failed.note(error)
                LOGGER.exception("warming_failed")

    def _answer(self, request: WarmRequest) -> None:
        loaded = warm.load(self._db, request.tenant, self._catalog, request.dags, request.plugins)
        warm.answer(self._db, request, self._worker_id, loaded)
        LOGGER.info("warmed", dags=len(loaded.dags), plugins=len(loaded.plugins))

    def _listen(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            try:
                self.answer_all()
            except Unavailable as error:
                self.failed.note(error)
