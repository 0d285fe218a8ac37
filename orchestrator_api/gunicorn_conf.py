"""How gunicorn serves the API: ``gunicorn --config python:orchestrator_api.gunicorn_conf``.

gunicorn reads the names of this module as its settings, so this module alone reads
the environment when it is imported.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.http.message import Request
from gunicorn.http.wsgi import Response

from orchestrator_api import access_log
from orchestrator_api.server import Worker
from orchestrator_api.web_metrics import FOLDER_VARIABLE, open_folder
from orchestrator_api.wsgi import NEED
from shared.config import load_settings
from shared.garbage import collect_seldom
from shared.log import configure_logging
from shared.services.schema import why_too_old
from shared.store.db import Database

_DESCRIPTORS_BESIDE = 256
EX_CONFIG = 78

_settings = load_settings(os.environ, need=NEED)
configure_logging(_settings.log_level, component="web")

wsgi_app = "orchestrator_api.wsgi:application"
_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host
bind = f"{_host}:{_settings.port}"
proc_name = "orchestrator-web"

worker_class = "orchestrator_api.server.Worker"
workers = _settings.web_processes
threads = _settings.web_threads
# A request waits for a thread as long as ORCH_WEB_QUEUE_MS, and is then refused. More connections than these
# wait in the kernel, and cost nothing.
worker_connections = 2_000
backlog = 2_048
# Longer than clients keep an idle connection: else a request could meet the closing of it.
keepalive = 75
# Time that a worker has to show a sign of life: threads that serve a long request do not block it.
timeout = 60
graceful_timeout = 15

limit_request_line = 8_190
limit_request_fields = 64
# A token of 8 KiB must fit into one header.
limit_request_field_size = 8_190 + 256

# No proxy is known here: what says who the client is, or where the application lies, is anybody's header.
forwarded_allow_ips = ""
forwarder_headers = ""
# What is sent by the kernel alone is neither bounded in time nor counted.
sendfile = False

logger_class = "orchestrator_api.server.JsonLines"
loglevel = _settings.log_level
# "-" stands for the process's one log, whose lines are JSON.
accesslog = "-" if _settings.access_log == "on" else None
errorlog = "-"

# gunicorn's own control interface would be a second way in, with no tokens.
control_socket_disable = True


def post_fork(_server: Arbiter, worker: Worker) -> None:
    """Set up a process that serves: each connection and each stream is a descriptor."""
    worker.queue_seconds = _settings.web_queue_ms / 1000
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = worker.cfg.worker_connections + _settings.streams + _DESCRIPTORS_BESIDE
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, wanted), most))
    # Where there are too few, both get less, requests first of all.
    room = max(now, wanted) - _DESCRIPTORS_BESIDE
    worker.worker_connections = min(worker.cfg.worker_connections, max(room // 2, room - _settings.streams))


def post_worker_init(_worker: Worker) -> None:
    """Collect garbage seldom, now that the application is loaded."""
    collect_seldom()


def post_request(_worker: Worker, request: Request, environ: dict[str, Any], _response: Response) -> None:
    """Log what became a WebSocket, which gunicorn takes for a request without an answer."""
    if accesslog and access_log.is_upgraded(environ):
        access_log.upgraded(request, environ)


def on_starting(_server: Arbiter) -> None:
    """Refuse a schema that is too old; make a new folder for all processes to count in, from zero."""
    db = Database(_settings.database_url, role="orch_api", size=1, application_name="orchestrator-api")
    too_old = why_too_old(db)
    db.close()
    if too_old:
        sys.stderr.write(f"{too_old}\n")
        sys.exit(EX_CONFIG)
    os.environ[FOLDER_VARIABLE] = str(open_folder())


def on_exit(_server: Arbiter) -> None:
    """Remove that folder."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        shutil.rmtree(folder, ignore_errors=True)
