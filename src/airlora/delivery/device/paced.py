"""Sockets that ask, before every single read, how long it may take.

A timeout of a socket bounds one read: who sends a byte now and then is within it for ever, be it a header, the body of
a redirect or an answer that nobody wanted.  Here every read passes a `Pace`, whatever it is read for.  Below TLS too:
a record of it has up to 16 KiB and can be read only when it is whole, which takes a slow link longer than any sensible
time without a byte.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.ssltransport import SSLTransport

__all__ = ["Pace", "PacedSocket", "paced_context", "paced_pools"]


class Pace(Protocol):
    """Who decides how long a connection and a read may take."""

    def before_connect(self) -> float:
        """Return how many seconds a connection may take, above 0; raises `TimeoutError`: it may not begin."""

    def before_read(self) -> float:
        """Return how many seconds the next read may take, above 0; raises `TimeoutError`: it may not begin."""

    def after_read(self, num_bytes: int) -> None:
        """Take note of what came; raises `TimeoutError` if it is not to go on."""


class _PacedFile(io.RawIOBase):
    def __init__(self, sock: PacedSocket) -> None:
        super().__init__()
        self._sock = sock
        # Keeps the socket open until the answer has been read, as the library's own files do.
        self._file = cast(io.RawIOBase, sock.raw.makefile("rb", buffering=0))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        return self._sock.recv_into(buffer)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class PacedSocket:
    """A connected socket that is read at a pace; everything else is the socket's own.

    Args:
        sock: The socket.
        pace: Its pace.
    """

    def __init__(self, sock: socket.socket, pace: Pace) -> None:
        self.raw, self._pace = sock, pace

    def recv(self, size: int) -> bytes:
        """Return what comes, `size` bytes at most."""
        self.raw.settimeout(self._pace.before_read())
        content = self.raw.recv(size)
        self._pace.after_read(len(content))
        return content

    def recv_into(self, buffer: Any) -> int:
        """Read what comes into a buffer, and return how much."""
        self.raw.settimeout(self._pace.before_read())
        num_bytes = self.raw.recv_into(buffer)
        self._pace.after_read(num_bytes)
        return num_bytes

    def makefile(self, *_arguments: object, **_options: object) -> io.BufferedReader:
        """Return what HTTP answers are read from."""
        return io.BufferedReader(_PacedFile(self))

    @property
    def _io_refs(self) -> int:
        """Files that are open on the socket, which a layer of TLS counts here."""
        return int(self.raw._io_refs)  # type: ignore[attr-defined]

    @_io_refs.setter
    def _io_refs(self, value: int) -> None:
        self.raw._io_refs = value  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


class _PacedContext(ssl.SSLContext):
    """TLS that reads what it needs from the socket below through that socket's own methods."""

    def wrap_socket(self, sock: Any, *_arguments: Any, server_hostname: Any = None, **_options: Any) -> Any:
        return SSLTransport(sock, self, server_hostname)


def paced_context() -> ssl.SSLContext:
    """Return how https is spoken over paced sockets: TLS 1.2 or later, names and certificates verified."""
    context = _PacedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def paced_pools(pace: Pace) -> Mapping[str, type[HTTPConnectionPool]]:
    """Return pools of connections, by scheme, whose sockets all read at one pace."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connected(self, pace)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connected(self, pace)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _connected(connection: HTTPConnection, pace: Pace) -> socket.socket:
    """Return a connection to one of a host's addresses; raises `OSError`."""
    sock = _connect(connection._dns_host, int(connection.port), connection.socket_options or (), pace.before_connect())
    return cast(socket.socket, PacedSocket(sock, pace))


def _connect(host: str, port: int, options: Sequence[Any], limit_s: float) -> socket.socket:
    """Try the addresses of a host in turn; they share the time, so that a silent one leaves some to the next."""
    end_s = time.monotonic() + limit_s
    failed = OSError(f"{host} has no address")
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    for place, (family, kind, protocol, _, address) in enumerate(found):
        sock = socket.socket(family, kind, protocol)
        try:
            for option in options:
                sock.setsockopt(*option)
            sock.settimeout(max(0.001, (end_s - time.monotonic()) / (len(found) - place)))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failed = error
        else:
            return sock
    raise failed
