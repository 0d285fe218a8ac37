"""Connections to the outside that cannot be led to addresses inside.

A name is resolved once, every address that it has is judged, and the connection goes to an
address that was judged: a name that answers differently the next time gains nothing.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import selectors
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import TypeVar

import httpcore

from shared.plugins import Stop

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

T = TypeVar("T")

CONNECT_SECONDS = 10.0

NEVER_PUBLIC: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # Shared by a provider's customers.
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays.
        "198.18.0.0/15",  # Benchmarks.
        "240.0.0.0/4",
        "::/96",  # IPv4-compatible, long out of use.
        "64:ff9b:1::/48",  # NAT64 of a local network.
        "100::/64",  # Discarded.
        "2001::/23",  # Protocol assignments, Teredo among them.
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",  # Site-local, as private as its successor.
    )
)
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class AddressForbidden(Exception):
    """The host has an address that steps may not reach; it is named for the reader."""

    def __init__(self, host: str, address: Address) -> None:
        super().__init__(
            f"{host} has the address {address}, which is not public; the installation does not allow it"
        )
        self.host = host
        self.address = address


def is_public(address: Address) -> bool:
    """Tell whether an address is one of the public Internet's, also behind every IPv4-in-IPv6 form."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
    special = any(address.version == network.version and address in network for network in NEVER_PUBLIC)
    return address.is_global and not address.is_multicast and not special


class AllowList:
    """Networks and host names whose addresses may be reached though they are not public."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._networks: list[Network] = []
        self._hosts: set[str] = set()
        for entry in entries:
            try:
                self._networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                self._hosts.add(entry.lower().rstrip("."))

    def permits(self, host: str, address: Address) -> bool:
        if host.lower().rstrip(".") in self._hosts:
            return True
        return any(address.version == network.version and address in network for network in self._networks)


@lru_cache(maxsize=8)
def allow_list(entries: tuple[str, ...]) -> AllowList:
    """Parse an installation's list once."""
    return AllowList(entries)


class GuardedBackend(httpcore.NetworkBackend):
    """How httpcore reaches the network for one exchange: judged addresses, one deadline, and a way to end it.

    Every operation has the time that is left of the whole, so a server that sends a byte
    a second gains nothing. A stop shuts the connections down from another thread, which
    ends whatever the exchange is blocked in.
    """

    def __init__(self, allow: AllowList, stop: Stop) -> None:
        self._allow = allow
        self._stop = stop
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._forget = stop.call_on_stop(self._shut_down)

    def close(self) -> None:
        self._forget()
        with self._lock:
            for connection in self._open:
                connection.close()
            self._open.clear()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # The stop has the time.
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._resolve(host, port)
        for address in addresses:
            if not is_public(address) and not self._allow.permits(host, address):
                raise AddressForbidden(host, address)
        failure: OSError | None = None
        for address in addresses:
            try:
                return self._connect(address, port, socket_options or ())
            except OSError as error:
                failure = error
                if self._stop.reason is not None:
                    break
        raise httpcore.ConnectError(f"cannot connect to {host}: {failure}") from failure

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        raise httpcore.UnsupportedProtocol("a step may not use local sockets")

    def sleep(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def _resolve(self, host: str, port: int) -> list[Address]:
        """Look a name up in a thread of its own: the resolver takes no deadline and no interruption."""
        done = threading.Event()
        found: list[str] = []
        failures: list[OSError] = []

        def look_up() -> None:
            try:
                found.extend(
                    str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                )
            except (OSError, UnicodeError) as error:
                failures.append(error if isinstance(error, OSError) else OSError(f"{host!r} is no host name"))
            finally:
                done.set()

        forget = self._stop.call_on_stop(done.set)
        threading.Thread(target=look_up, name="resolve", daemon=True).start()
        done.wait(self._stop.remaining_seconds())
        forget()
        if failures or not found:
            failure = failures[0].strerror or str(failures[0]) if failures else "no answer in time"
            raise httpcore.ConnectError(f"cannot resolve {host}: {failure}")
        return [ipaddress.ip_address(text) for text in dict.fromkeys(found)]

    def _connect(
        self, address: Address, port: int, options: Iterable[httpcore.SOCKET_OPTION]
    ) -> httpcore.NetworkStream:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            # Begun before it is watched: a shutdown ends a connection that is being made, but
            # does nothing to a socket that has not been asked to connect.
            _check_error(connection.connect_ex((str(address), port)))
            self._watch(connection)
            with selectors.DefaultSelector() as selector:
                selector.register(connection, selectors.EVENT_WRITE)
                left = _left(self._stop)
                ready = selector.select(CONNECT_SECONDS if left is None else min(CONNECT_SECONDS, left))
            if not ready or self._stop.reason is not None:
                raise TimeoutError("no answer in time")
            _check_error(connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option in options:
                connection.setsockopt(*option)
        except BaseException:
            connection.close()
            raise
        return _Stream(connection, self._stop)

    def _watch(self, connection: socket.socket) -> None:
        """Keep a second handle: TLS takes the first one over, and its owner may close it at any time."""
        with self._lock:
            self._open.append(connection.dup())
        if self._stop.reason is not None:
            self._shut_down()

    def _shut_down(self) -> None:
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # Not connected, or not any more.


class _Stream(httpcore.NetworkStream):
    """A connection whose every operation ends with the attempt's deadline."""

    def __init__(self, connection: socket.socket, stop: Stop) -> None:
        self._connection = connection
        self._stop = stop

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._timed(lambda: self._connection.recv(max_bytes), httpcore.ReadTimeout, httpcore.ReadError)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        while view:
            send = partial(self._connection.send, view)
            sent = self._timed(send, httpcore.WriteTimeout, httpcore.WriteError)
            view = view[sent:]

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        secured = self._timed(
            lambda: ssl_context.wrap_socket(self._connection, server_hostname=server_hostname),
            httpcore.ConnectTimeout,
            httpcore.ConnectError,
        )
        return _Stream(secured, self._stop)

    def close(self) -> None:
        self._connection.close()

    def get_extra_info(self, info: str) -> object:
        return self._connection if info == "socket" else None

    def _timed(self, operation: Callable[[], T], late: type[Exception], broken: type[Exception]) -> T:
        self._connection.settimeout(_left(self._stop))
        try:
            return operation()
        except ssl.SSLCertVerificationError:
            raise
        except TimeoutError as error:
            raise late(str(error)) from error
        except OSError as error:
            raise broken(str(error)) from error


def _check_error(number: int) -> None:
    if number not in (0, errno.EINPROGRESS):
        raise OSError(number, os.strerror(number))


def _left(stop: Stop) -> float | None:
    """Give the time that is left as a socket's time-out, for which zero would mean not to wait at all."""
    remaining = stop.remaining_seconds()
    return None if remaining is None else max(remaining, 0.001)
