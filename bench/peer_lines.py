"""What runs in a peer's own interpreter: a shape comes in on a line, its seconds go out on another.

It may import nothing that only our own environment has.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

from bench.shapes import Shape

READY = "ready"


def serve(measure: Callable[[Shape], float]) -> None:
    """Say that the peer is ready, then measure each shape that comes, until no more come."""
    # What the peer itself prints must not be taken for an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    print(READY, file=answers, flush=True)
    for line in sys.stdin:
        fields = json.loads(line)
        shape = Shape(**{**fields, "layers": tuple(fields["layers"])})
        print(measure(shape), file=answers, flush=True)
