"""Where a request says whose it is: in its headers or, from a browser's WebSocket, in its subprotocols.

A page can set no headers of a WebSocket but the subprotocols that it offers. A token in the address would
end in logs; these do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from werkzeug.datastructures import Headers

from orchestrator_api.auth import TENANT_HEADER
from shared.errors import InvalidArgument, Problem

PROTOCOL: Final = "orchestrator.ndjson.v1"
PROTOCOL_HEADER: Final = "Sec-WebSocket-Protocol"
_BEARER: Final = "bearer."
_TENANT: Final = "tenant."


@dataclass(frozen=True, slots=True)
class Credentials:
    """The text of the headers ``Authorization`` and ``X-Stella-Tenant``, or what stands for them."""

    authorization: str | None
    tenant: str | None


def of_headers(headers: Headers) -> Credentials:
    """Read the credentials of a request."""
    return Credentials(headers.get("Authorization"), headers.get(TENANT_HEADER))


def of_upgrade(headers: Headers) -> Credentials:
    """Read the credentials of a WebSocket's request. Raises InvalidArgument if one is given twice."""
    plain = of_headers(headers)
    offered = [part.strip() for part in headers.get(PROTOCOL_HEADER, "").split(",")]
    token = _only(offered, _BEARER, beside=plain.authorization)
    tenant = _only(offered, _TENANT, beside=plain.tenant)
    return Credentials(
        plain.authorization if token is None else f"Bearer {token}",
        plain.tenant if tenant is None else tenant,
    )


def _only(offered: list[str], prefix: str, *, beside: str | None) -> str | None:
    found = [part.removeprefix(prefix) for part in offered if part.startswith(prefix)]
    if len(found) + (beside is not None) > 1:
        message = f"{prefix}... may be given once, and not beside the header that it stands for"
        raise InvalidArgument(f"{PROTOCOL_HEADER}: {message}", [Problem(PROTOCOL_HEADER, message)])
    return found[0] if found else None
