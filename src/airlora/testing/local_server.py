"""A server in a thread, and a link in front of it that is slow and loses packets: for demos and tests."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import uvicorn
from starlette.types import ASGIApp

from airlora.errors import SettingsError

__all__ = ["LinkShape", "ShapedLink", "serving", "shaped_link"]

PACKET_BYTES = 536
"""Payload of a packet: what the smallest links carry."""


@contextlib.contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """Serve an application in a thread and yield its address; it ends with the context."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False))
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10.0)


@dataclass(frozen=True)
class LinkShape:
    """What a link does to packets.

    Args:
        rate_bps: Bit/s towards the device.
        loss: Share of packets that are lost; each is sent again after `retry_s`, as TCP does.
        break_share: Share of the losses that end the connection.
        retry_s: Until a lost packet is sent again.
        delay_s: One way.

    Raises:
        SettingsError: A number is out of range.
    """

    rate_bps: float
    loss: float = 0.0
    break_share: float = 0.0
    retry_s: float = 0.2
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.rate_bps < float("inf"):
            raise SettingsError.of("rate_bps", self.rate_bps, "bit/s, above 0")
        for name in ("loss", "break_share"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError.of(name, getattr(self, name), "a share from 0 to below 1")
        for name in ("retry_s", "delay_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise SettingsError.of(name, getattr(self, name), "seconds, 0 or more")


@dataclass
class ShapedLink:
    """A link that is up.

    Args:
        url: Where the device finds the server.
        wire_bytes: That went towards the device, lost ones included.
        num_lost: Packets lost.
        num_breaks: Connections ended.
    """

    url: str
    wire_bytes: int = 0
    num_lost: int = 0
    num_breaks: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


@contextlib.contextmanager
def shaped_link(url: str, shape: LinkShape, *, seed: int = 0) -> Iterator[ShapedLink]:
    """Yield a link of some shape to the server at `url`: a proxy of TCP connections on this machine.

    All connections share the rate.  Real time passes.
    """
    host, _, port = url.partition("://")[2].partition(":")
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=32) as listener:
        listener.settimeout(0.1)
        link = ShapedLink(f"http://127.0.0.1:{listener.getsockname()[1]}")
        proxy = _Proxy((host, int(port)), shape, link, random.Random(seed), stop)
        thread = threading.Thread(target=proxy.accept, args=(listener,), daemon=True)
        thread.start()
        try:
            yield link
        finally:
            stop.set()
            thread.join(5.0)


class _Proxy:
    def __init__(
        self,
        server: tuple[str, int],
        shape: LinkShape,
        link: ShapedLink,
        generator: random.Random,
        stop: threading.Event,
    ) -> None:
        self._server, self._shape, self._link = server, shape, link
        self._random, self._stop = generator, stop
        self._free_at_s = time.monotonic()

    def accept(self, listener: socket.socket) -> None:
        while not self._stop.is_set():
            try:
                device, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            threading.Thread(target=self._carry, args=(device,), daemon=True).start()

    def _carry(self, device: socket.socket) -> None:
        """Carry one connection until either side ends it."""
        with device, contextlib.suppress(OSError), socket.create_connection(self._server, timeout=10.0) as server:
            upward = threading.Thread(target=self._upward, args=(device, server), daemon=True)
            upward.start()
            device.settimeout(60.0)
            while not self._stop.is_set():
                try:
                    data = server.recv(PACKET_BYTES)
                except TimeoutError:
                    continue
                if not data or not self._downward(data, device):
                    break
            for end in (device, server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            upward.join(1.0)

    def _upward(self, device: socket.socket, server: socket.socket) -> None:
        """What the device asks is small: it passes as it is."""
        with contextlib.suppress(OSError):
            while data := device.recv(4096):
                time.sleep(self._shape.delay_s)
                server.sendall(data)

    def _downward(self, data: bytes, device: socket.socket) -> bool:
        """Carry one packet; returns whether the connection lives on."""
        shape = self._shape
        while True:
            with self._link.lock:
                self._link.wire_bytes += len(data)
                is_lost = self._random.random() < shape.loss
                is_broken = is_lost and self._random.random() < shape.break_share
                self._link.num_lost += is_lost
                self._link.num_breaks += is_broken
                now = time.monotonic()
                self._free_at_s = max(now, self._free_at_s) + 8 * len(data) / shape.rate_bps
                wait_s = self._free_at_s - now
            if self._stop.wait(wait_s + shape.delay_s) or is_broken:
                return False
            if not is_lost:
                device.sendall(data)
                return True
            if self._stop.wait(shape.retry_s):
                return False
