"""An HTTP server that gives the answers it is told to, byte by byte, so that it can misbehave."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
HEAD = OK + b"Content-Type: application/x-ndjson; charset=utf-8\r\nX-Stream-Cursor: 7.0\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(text: str) -> bytes:
    return f"{len(text):x}\r\n{text}\r\n".encode()


def event(number: int) -> str:
    return json.dumps({"cursor": f"8.{number}", "seq": number})


def lines(*numbers: int) -> bytes:
    return chunk("".join(event(number) + "\n" for number in numbers))


def refusal(status: int, code: str, *headers: str) -> bytes:
    body = json.dumps({"error": {"code": code, "message": "no", "trace_id": "0" * 32}})
    head = "\r\n".join([f"HTTP/1.1 {status} No", f"Content-Length: {len(body)}", *headers])
    return f"{head}\r\n\r\n{body}".encode()


@dataclass(slots=True)
class Server:
    """Answers each connection with the next answer, then closes it; ``None`` is one without an end."""

    answers: list[bytes | None]
    url: str = ""
    asked: list[dict[str, list[str]]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """The idempotency keys of what was asked."""

    def serve(self, listener: socket.socket) -> None:
        for answer in self.answers:
            connection, _ = listener.accept()
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(65_536)
                self.asked.append(parse_qs(urlsplit(head.split(b" ")[1].decode()).query))
                self.keys += re.findall(r"(?mi)^idempotency-key: (\S+)", head.decode())
                if answer is None:
                    connection.sendall(HEAD)
                    assert connection.recv(1) == b"", "the client is to close it"
                else:
                    connection.sendall(answer)


@contextmanager
def serving(*answers: bytes | None) -> Iterator[Server]:
    server = Server(list(answers))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.serve, args=(listener,), daemon=True)
        thread.start()
        yield server
        thread.join(5)
        assert not thread.is_alive(), "not all answers were asked for"
