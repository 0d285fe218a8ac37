"""Answer with bytes from the artifact store: all of them, one range, or nothing to who has them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

from flask import Response, request
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.wsgi import wrap_file

from orchestrator_api.parts import parts
from shared.artifacts import ArtifactCorrupt, verified
from shared.domain.models import ArtifactRef

_CONTENT_TYPE = re.compile(r"[!#$&^_.+A-Za-z0-9-]+/[!#$&^_.+A-Za-z0-9-]+(?:; ?[!#$&^_.+A-Za-z0-9-]+=[!-~]+)*")
_CHUNK_BYTES = 1 << 16


def stored(ref: ArtifactRef) -> Response:
    """Stream an artifact, or the one range of it that is asked for.

    A step chose the content type: a browser must neither guess another
    (``nosniff``, on every response) nor run what it is given (``sandbox``).
    Bytes that were damaged in the store are never sent as all of it: a small
    artifact is refused, a large one breaks off. A range is sent unchecked.
    """
    known = _CONTENT_TYPE.fullmatch(ref.content_type)
    content = parts().artifacts.open(ref.sha256)
    if os.fstat(content.fileno()).st_size != ref.size_bytes:
        content.close()
        raise ArtifactCorrupt(f"the stored bytes of artifact {ref.sha256} have another size")
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
    elif response.status_code == 200:
        response.response = _checked(content, ref)
        response.direct_passthrough = False
        response.call_on_close(content.close)
    return response


def _checked(content: BinaryIO, ref: ArtifactRef) -> Iterator[bytes]:
    """Begin to read, so that damage in the first piece is told before the answer is begun."""
    pieces = verified(content, ref.sha256)
    try:
        first = next(pieces)
    except BaseException:
        content.close()
        raise
    return chain((first,), pieces)


def _asks_for_one_range() -> bool:
    """Tell whether there is a range to serve; RFC 9110 (14.2) lets the rest be answered in full."""
    asked = request.range
    return asked is not None and asked.units == "bytes" and len(asked.ranges) == 1
