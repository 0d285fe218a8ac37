"""Which of the content types that a route can answer with its caller wants."""

from __future__ import annotations

import re
from typing import Final

from werkzeug.datastructures import MIMEAccept

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"

_OUR_CHARSET = re.compile(r'\s*;\s*charset="?utf-8"?', re.IGNORECASE)


def chosen(accepted: MIMEAccept, offered: tuple[str, ...]) -> str | None:
    """Give the type that the caller likes best, the first of equals; ``None`` when they take none of them."""
    if not accepted:
        return offered[0]
    # Both types are UTF-8 by definition: a caller who says so asks for nothing else.
    plain = MIMEAccept([(_OUR_CHARSET.sub("", name), quality) for name, quality in accepted])
    best = max(offered, key=plain.quality)
    return best if plain.quality(best) > 0 else None
