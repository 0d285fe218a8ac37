"""Answer with bytes from the artifact store: all of them, one range, or nothing to who has them."""

from __future__ import annotations

import re

from flask import Response, request
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.wsgi import wrap_file

from orchestrator_api.parts import parts
from shared.domain.models import ArtifactRef

_CONTENT_TYPE = re.compile(r"[!#$&^_.+A-Za-z0-9-]+/[!#$&^_.+A-Za-z0-9-]+(?:; ?[!#$&^_.+A-Za-z0-9-]+=[!-~]+)*")
_CHUNK_BYTES = 1 << 16


def stored(ref: ArtifactRef) -> Response:
    """Stream an artifact, or the one range of it that is asked for.

    A step chose the content type: a browser must neither guess another
    (``nosniff``, on every response) nor run what it is given (``sandbox``).
    """
    known = _CONTENT_TYPE.fullmatch(ref.content_type)
    content = parts().artifacts.open(ref.sha256)
    response = Response(
        wrap_file(request.environ, content, _CHUNK_BYTES),
        content_type=ref.content_type if known else "application/octet-stream",
        direct_passthrough=True,
    )
    response.content_length = ref.size_bytes
    response.set_etag(ref.sha256)
    response.headers["Content-Security-Policy"] = "sandbox"
    # The bytes never change, but who may read them might: to be asked for each time.
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["Accept-Ranges"] = "bytes"
    try:
        response.make_conditional(
            request, accept_ranges=_asks_for_one_range(), complete_length=ref.size_bytes
        )
    except RequestedRangeNotSatisfiable:
        response.close()
        raise
    if request.method == "HEAD" or response.status_code == 304:
        # The server never sees, and so never closes, the content of a response that has no body.
        response.close()
    return response


def _asks_for_one_range() -> bool:
    """Tell whether there is a range to serve; RFC 9110 (14.2) lets the rest be answered in full."""
    asked = request.range
    return asked is not None and asked.units == "bytes" and len(asked.ranges) == 1
