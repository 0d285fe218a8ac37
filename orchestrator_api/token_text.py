"""Whether the text of a token has one reading only, before anything is believed of it.

Another reader (a proxy, a log, an issuer's own check) must not see another key, subject or
tenant in the same token: RFC 7515 (5.2) and RFC 7519 (4) leave what happens with names that
come twice to the reader, and most take the last.
"""

from __future__ import annotations

import base64
import json
from typing import NoReturn


def has_one_reading(token: str) -> bool:
    """Tell whether all three parts are canonical base64url, and the first two JSON without double meaning."""
    parts = token.split(".")
    decoded = [_decoded(part) for part in parts]
    return all(each is not None and _is_plain(each) for each in decoded[:2]) and None not in decoded


def _decoded(part: str) -> bytes | None:
    """Decode a part if it is the one spelling of its bytes; the last character has unused bits."""
    try:
        decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        return None
    same = base64.urlsafe_b64encode(decoded).rstrip(b"=") == part.encode("ascii")
    return decoded if same else None


def _is_plain(text: bytes) -> bool:
    """Tell whether a text is JSON of RFC 8259, with each name once."""
    try:
        json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return False
    return True


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name comes twice")
    return members


def _no_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
