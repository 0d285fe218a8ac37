"""A client that takes a tenant's whole past, and hashes it: ``python -m bench.stream_chain``.

It reads one JSON object (``Wanted``) from its standard input, and the stream from the first line on. It says
``reached`` with the seconds that the wanted number of lines took. When its standard input ends, it writes the
head of each run's hash chain, which is the ledger's if it got each line once, in order, byte for byte.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from bench.frames import messages
from bench.stream_reader import handshake

_READ_BYTES: Final = 1 << 16
_CURSOR: Final = b'"cursor":"'
_RUN: Final = b'"runId":"'
_RUN_CHARS: Final = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    host: str
    port: int
    token: str
    tenant: str
    lines: int


def main() -> None:
    """Serve one measurement."""
    wanted = Wanted(**json.loads(sys.stdin.readline()))
    heads: dict[bytes, bytes] = {}
    begun = time.monotonic()
    lines, rest = 0, b""
    with (
        socket.create_connection((wanted.host, wanted.port)) as sock,
        selectors.DefaultSelector() as selector,
    ):
        sock.sendall(handshake(wanted.host, wanted.token, wanted.tenant, after="0"))
        while b"\r\n\r\n" not in rest:
            rest += sock.recv(_READ_BYTES)
        head, _, rest = rest.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise RuntimeError(f"no WebSocket: {head!r}")
        selector.register(sock, selectors.EVENT_READ, True)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while all(key.data for key, _ in selector.select()):
            data = sock.recv(_READ_BYTES)
            if not data:
                raise RuntimeError("the stream has ended")
            texts, rest = messages(rest + data)
            for text in texts:
                _hash(heads, text)
            if lines < wanted.lines <= lines + len(texts):
                _say({"reached": time.monotonic() - begun})
            lines += len(texts)
    _say({"lines": lines, "heads": {run.decode(): head.hex() for run, head in heads.items()}})


def _hash(heads: dict[bytes, bytes], text: bytes) -> None:
    begin = text.index(_CURSOR)
    end = text.index(b'",', begin) + 2
    at = text.index(_RUN) + len(_RUN)
    run = text[at : at + _RUN_CHARS]
    heads[run] = sha256(heads.get(run, bytes(32)) + text[:begin] + text[end:]).digest()


def _say(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
