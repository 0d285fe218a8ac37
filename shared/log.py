"""Logs as JSON lines on stderr, of our own code and of the libraries alike, without secrets.

A value is redacted wherever it stands: in the event, in a field, in a traceback.
Bodies, headers and the environment of steps are never logged in the first place;
this is the second fence.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), "[token]"),
    (re.compile(r"\bBearer\s+\S+", re.IGNORECASE), "Bearer [token]"),
    (re.compile(r"(?<=://)([^\s:/@]*):[^\s/@]+@"), r"\1:[password]@"),
    (re.compile(r"\b(password|passwd|secret|token)=[^\s&]+", re.IGNORECASE), r"\1=[hidden]"),
)
_SUSPECT = re.compile("eyJ|bearer|://|=", re.IGNORECASE)
"""What each of the patterns needs: most texts have none of it, and every log line has a dozen texts."""
_SECRET_NAMES = frozenset({"authorization", "password", "secret", "token", "cookie"})


def redact(text: str) -> str:
    """Replace what looks like a token or a password."""
    if _SUSPECT.search(text) is None:
        return text
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _redacted(value: object) -> object:
    match value:
        case str():
            return redact(value)
        case Mapping():
            return {key: _redacted_field(str(key), item) for key, item in value.items()}
        case bool() | int() | float() | None:
            return value
        case Sequence() if not isinstance(value, bytes | bytearray):
            return [_redacted(item) for item in value]
        case _:
            return redact(str(value))


def _redacted_field(name: str, value: object) -> object:
    return "[hidden]" if name.lower() in _SECRET_NAMES else _redacted(value)


def _redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: _redacted_field(name, value) for name, value in event.items()}


def configure_logging(level: str, *, component: str) -> None:
    """Send all logging of this process to stderr, one JSON object a line.

    Libraries that log through the standard library end in the same lines; below
    warning they stay silent unless ``level`` is debug.
    """

    def name_component(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["component"] = component
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        name_component,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.PositionalArgumentsFormatter(), *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _redact_event,
                # In ASCII: some readers of lines end one at U+0085 or U+2028, too, and terminals obey U+009B.
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    if level != "debug":
        for name in ("amqp", "celery", "httpcore", "httpx", "kombu"):
            logging.getLogger(name).setLevel("WARNING")
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
