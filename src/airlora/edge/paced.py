"""Sockets that ask, before every single read, how long it may take.

A timeout of a socket bounds one read: who sends a byte now and then is within it for ever, be it a header, the body of
a redirect or an answer that nobody wanted.  Here every read passes a `Pace`, whatever it is read for.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Mapping
from typing import Any, Protocol, cast

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

__all__ = ["Pace", "PacedSocket", "paced_pools"]


class Pace(Protocol):
    """Who decides how long a read may take."""

    def before_read(self) -> float:
        """Return how many seconds the next read may take, above 0; raises `TimeoutError`: it may not begin."""

    def after_read(self, num_bytes: int) -> None:
        """Take note of what came; raises `TimeoutError` if it is not to go on."""


class _PacedFile(io.RawIOBase):
    def __init__(self, sock: socket.socket, pace: Pace) -> None:
        super().__init__()
        self._sock, self._pace = sock, pace
        self._file = cast(io.RawIOBase, sock.makefile("rb", buffering=0))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._pace.before_read())
        num_bytes = self._file.readinto(buffer)
        self._pace.after_read(num_bytes or 0)
        return num_bytes

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class PacedSocket:
    """A connected socket whose files are read at a pace; everything else is the socket's own."""

    def __init__(self, sock: socket.socket, pace: Pace) -> None:
        self._sock, self._pace = sock, pace

    def makefile(self, *_arguments: object, **_options: object) -> io.BufferedReader:
        """Return what HTTP answers are read from."""
        return io.BufferedReader(_PacedFile(self._sock, self._pace))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def paced_pools(pace: Pace) -> Mapping[str, type[HTTPConnectionPool]]:
    """Return pools of connections, by scheme, whose sockets all read at one pace."""

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            self.sock = cast(socket.socket, PacedSocket(cast(socket.socket, self.sock), pace))

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            self.sock = cast(socket.socket, PacedSocket(cast(socket.socket, self.sock), pace))

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
