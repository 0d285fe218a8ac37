"""A server on the loopback interface that misbehaves on demand."""

from __future__ import annotations

import gzip
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """``requests`` has what came in: method, path, headers (lower case), body."""

    listener: ThreadingHTTPServer
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    hanging: threading.Event = field(default_factory=threading.Event)
    """Set while a request hangs or drips."""
    end: threading.Event = field(default_factory=threading.Event)

    @property
    def port(self) -> int:
        return self.listener.server_port

    def wrap(self, context: ssl.SSLContext) -> None:
        """Speak TLS on every connection from now on; the handshake is the handler thread's."""
        self.listener.socket = context.wrap_socket(
            self.listener.socket, server_side=True, do_handshake_on_connect=False
        )

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Listener

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.record.requests.append((self.command, self.path, headers, body))
        _, kind, *rest = self.path.split("/", 2)
        getattr(self, f"_{kind}")(*rest)

    do_GET = do_POST = do_PUT = do_HEAD = _serve  # noqa: N815  # The library looks for these names.

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self) -> None:
        self._answer(
            200, b'{"a": [1, "\xc3\xbc"]}', Content_Type="application/json", X_Version="7", ETag='"e"'
        )

    def _text(self) -> None:
        self._answer(200, "grüße".encode("latin-1"), Content_Type="text/plain; charset=iso-8859-1")

    def _raw(self, text: str) -> None:
        self._answer(200, text.encode(), Content_Type="application/json")

    def _status(self, number: str) -> None:
        self._answer(int(number.partition("?")[0]), b"because of reasons", Content_Type="text/plain")

    def _to(self, target: str) -> None:
        status, location = target.split("/", 1)
        self._answer(int(status), b"", Location=location)

    def _loop(self) -> None:
        self._answer(302, b"", Location="/loop")

    def _large(self, size: str) -> None:
        self._answer(200, b"x" * int(size), Content_Type="application/octet-stream")

    def _gzip(self) -> None:
        self._answer(200, gzip.compress(b"packed"), Content_Type="text/plain", Content_Encoding="gzip")

    def _bomb(self) -> None:
        packed = gzip.compress(bytes(50_000_000))
        self._answer(200, packed, Content_Type="text/plain", Content_Encoding="gzip")

    def _broken(self, kind: str) -> None:
        packed = gzip.compress(b"packed" * 100)
        self._answer(200, packed[:-9] if kind == "short" else b"no gzip", Content_Encoding="gzip")

    def _brotli(self) -> None:
        self._answer(200, b"x", Content_Encoding="br")

    def _hang(self) -> None:
        self.server.record.hanging.set()
        self.server.record.end.wait(30)

    def _drip(self) -> None:
        """Send a byte every 50 ms: no wait for the next byte ever takes long."""
        self.send_response(200)
        self.send_header("Content-Length", "10000")
        self.end_headers()
        self.server.record.hanging.set()
        while not self.server.record.end.wait(0.05):
            self.wfile.write(b"x")

    def _endless(self) -> None:
        """Send a body whose end is the end of the connection."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"half")
        self.wfile.flush()
        self.server.record.hanging.set()
        self.server.record.end.wait(30)

    def _cut(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"x")
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # The library's.
        return


class Listener(ThreadingHTTPServer):
    record: Server

    def handle_error(self, request: object, client_address: object) -> None:
        return  # A client that hangs up is what the tests are about.


@contextmanager
def serving() -> Iterator[Server]:
    with Listener(("127.0.0.1", 0), Handler) as listener:
        server = listener.record = Server(listener=listener)
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.end.set()
            listener.shutdown()
            thread.join()
