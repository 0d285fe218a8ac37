"""What the web processes of one server count: HTTP requests, and what went wrong behind them.

All processes of a gunicorn count in files of one folder, which any of them can add up. A file
belongs to a place among the processes, not to a process: who takes the place of one that died
goes on from its counts, so that none is ever lost or reset, and their number is bounded.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from flask import Flask, Request, request
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, values
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_flask_exporter import PrometheusMetrics  # type: ignore[import-untyped]

from orchestrator_api.context import PREFIX
from shared.messaging.complaint import Complaint

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Where prometheus_client finds the folder. gunicorn's master sets it before it starts processes."""
_FOLDER_PREFIX: Final = "orch-metrics-"
_OWNED: Final = "owned"

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_PART = re.compile(r"<(?:\w+:)?(\w+)>")
_NO_ROUTE = "none"


class WebMetrics:
    """Counts for one server. Without a ``folder``, for one process alone."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        if folder is not None:
            place = str(_take_place(folder))
            values.ValueClass = values.MultiProcessValue(lambda: place)  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._not_sent = self._counter(
            "orchestrator_doorbells_not_sent", "Dispatches that failed; the sweeper repeats them."
        )
        self._hints_dropped = self._counter(
            "orchestrator_dispatch_hints_dropped", "Dispatches left to the sweeper, since too many waited."
        )
        self._unchecked = self._counter(
            "orchestrator_rate_limit_unchecked", "Requests served without their limits, since Redis was away."
        )
        self._overload = self._counter(
            "orchestrator_http_overload", "Requests refused with 503, since no thread came to them in time."
        )
        self._streams = Gauge(
            "orchestrator_streams_open",
            "Event streams that are open.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        # Whoever had this place before may have died with streams.
        self._streams.set(0)
        self._streams_ended = Counter(
            "orchestrator_streams_ended",
            "Event streams that have ended, by the code that says why; 0 for a connection that broke.",
            ["code"],
            registry=self._registry,
        )
        self._ledger_unread = self._counter(
            "orchestrator_stream_ledger_unread", "Times that the streams could not read the ledger."
        )
        self._hints_unheard = self._counter(
            "orchestrator_stream_hints_unheard",
            "Times that the streams lost Redis, and looked into the ledger more often instead.",
        )
        self._odd_methods = self._counter(
            "orchestrator_http_odd_methods", "Requests with methods that HTTP does not have."
        )

    def count(
        self, *, not_sent: Complaint, hints_dropped: Complaint, rate_limit_unchecked: Complaint
    ) -> None:
        """Count whenever one of these failures is noted."""
        not_sent.call_on_note(self._not_sent.inc)
        hints_dropped.call_on_note(self._hints_dropped.inc)
        rate_limit_unchecked.call_on_note(self._unchecked.inc)

    def count_streams(self, *, unread: Complaint, unheard: Complaint) -> None:
        """Count whenever one of these failures is noted."""
        unread.call_on_note(self._ledger_unread.inc)
        unheard.call_on_note(self._hints_unheard.inc)

    def stream_opened(self) -> None:
        """Count a stream that begins."""
        self._streams.inc()

    def stream_ended(self, code: int | None) -> None:
        """Count the end of a stream; ``None`` if the connection broke."""
        self._streams.dec()
        self._streams_ended.labels(code=str(code or 0)).inc()

    def overloaded(self) -> None:
        """Count a request that was refused before the application saw it."""
        self._overload.inc()

    def watch(self, app: Flask) -> None:
        """Count and time the requests of ``app``, by route. To be called before others hook into requests.

        A time ends where the body begins: a stream does not count for as long as it is read.
        """

        def skip_odd_methods() -> None:
            # Whoever makes up a method would make up a series.
            if request.method not in _METHODS:
                self._odd_methods.inc()
                request.prom_do_not_track = True  # type: ignore[attr-defined]  # The exporter's own mark.

        app.before_request(skip_odd_methods)
        PrometheusMetrics(app, path=None, group_by=url_rule, buckets=_BUCKETS, registry=self._registry)

    def page(self, others: Iterable[Collector]) -> bytes:
        """Write all counts of this server, and what ``others`` give, in Prometheus' text format."""
        registry = CollectorRegistry()
        registry.register(_Files(self._folder) if self._folder is not None else self._registry)
        for other in others:
            registry.register(other)
        return generate_latest(registry)

    def _counter(self, name: str, documentation: str) -> Counter:
        return Counter(name, documentation, registry=self._registry)


class _Files(Collector):
    """Adds up what all processes have counted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        # A file that has just been opened is empty for a moment.
        files = [str(file) for file in self._folder.glob("*.db") if file.stat().st_size]
        merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return merged


def url_rule(of: Request) -> str:
    """Name the route of a request by its template; what has no route is one of a kind."""
    rule = of.url_rule
    return _NO_ROUTE if rule is None else _PART.sub(r"{\1}", rule.rule.removeprefix(PREFIX))


def open_folder() -> Path:
    """Make a new folder for one server to count in, and remove those that killed servers have left."""
    for old in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        try:
            descriptor = os.open(old / _OWNED, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # Another user's, or just being made.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            shutil.rmtree(old, ignore_errors=True)
        os.close(descriptor)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))
    # Never closed: held by the master and all that it forks, for as long as any of them lives.
    owned = os.open(folder / _OWNED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(owned, fcntl.LOCK_EX)
    return folder


def _take_place(folder: Path) -> int:
    """Take the first place that no living process has, for as long as this one lives."""
    for place in itertools.count():
        descriptor = os.open(folder / f"place-{place}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            return place
    raise AssertionError("counting has no end")
