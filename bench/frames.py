"""The messages in what a server sends over a WebSocket: unmasked frames, each of them whole."""

from __future__ import annotations

from typing import Final

_TEXT: Final = 0x81
_CLOSE: Final = 0x88
"""From here on frames are about the connection: a goodbye, a ping."""
_TWO_BYTES: Final = 126
_HEADER_BYTES: Final = (2, 4)


def messages(data: bytes) -> tuple[list[bytes], bytes]:
    """Take the text messages out of ``data``; give them, and the beginning of a frame that is not whole yet.

    Frames about the connection are passed over. Raises ValueError for what our server never sends.
    """
    found: list[bytes] = []
    begin, end = 0, len(data)
    while begin + _HEADER_BYTES[0] <= end:
        kind, size = data[begin], data[begin + 1]
        body = begin + _HEADER_BYTES[0]
        if size >= _TWO_BYTES:
            if size > _TWO_BYTES:
                raise ValueError(f"a frame of more than 64 KiB, or a masked one: {size}")
            body = begin + _HEADER_BYTES[1]
            if body > end:
                break
            size = data[body - 2] << 8 | data[body - 1]
        if body + size > end:
            break
        if kind == _TEXT:
            found.append(data[body : body + size])
        elif kind < _CLOSE:
            raise ValueError(f"neither a whole text nor about the connection: {kind:#x}")
        begin = body + size
    return found, data[begin:]
