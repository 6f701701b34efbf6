"""A link that nobody answers on: what a broadcast brings, as if it had been asked for.

`airlora.edge.visit` works on it as on any other link: it asks for metadata and for ranges of the stream, and waits
until the packets for that have come.  Everything else that comes meanwhile is kept for when it is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from securesystemslib.signer import SSlibKey

from airlora.delivery.broadcast.carousel import fountain
from airlora.delivery.broadcast.packets import MAX_OBJECT_BYTES, ObjectId, open_packet, packet_keys
from airlora.delivery.device.answers import HttpError
from airlora.delivery.device.link import Clock, HttpLink, LinkLimits
from airlora.delivery.repository.bundle import unpack_bundle
from airlora.delivery.repository.client import newest_trusted_root
from airlora.errors import NetworkError, SettingsError, TrustError

__all__ = ["AIR_URL", "BroadcastLink", "Receiver", "known_version", "listen_at", "trusted_keys"]

AIR_URL = "broadcast://air"
"""The repository that a broadcast stands for, in an `AgentPlan`."""

MAX_HELD_BYTES = 32 * MAX_OBJECT_BYTES
"""Of objects of streams that are on their way or wait to be asked for."""

MAX_BUNDLES = 16
"""Versions of the metadata that are on their way at once."""

MAX_STALE = 64
"""Versions of the metadata that are remembered as older than what was heard before."""

MAX_PACKET_BYTES = 65_535

RECEIVE_BUFFER_BYTES = 4 << 20
"""Asked of the system, so that a write to a slow disk loses no packet."""


class Receiver(Protocol):
    """What packets come from: a socket, or what stands for one."""

    def settimeout(self, seconds: float, /) -> None:
        """Let `recv` wait no longer."""

    def recv(self, size: int, /) -> bytes:
        """Return the next packet; raises `TimeoutError`."""


class BroadcastLink(HttpLink):
    """What has been heard, and is heard while something is asked for.

    Args:
        receiver: Where packets come from.
        keys: By which they may be signed.
        limits: `stall_timeout_s` counts without a good packet, and twice of it without one of the stream in question.
        end_s: When a visit ends, in the clock's seconds.
        clock: Time.

    Raises:
        MissingDependencyError: `raptorq` is not installed.
    """

    def __init__(
        self,
        receiver: Receiver,
        keys: Sequence[SSlibKey],
        *,
        limits: LinkLimits | None = None,
        end_s: float = float("inf"),
        clock: Clock | None = None,
    ) -> None:
        super().__init__(limits or LinkLimits(), end_s, clock or Clock())
        self.air_bytes = self.num_packets = self.num_refused = 0
        self._receiver, self.keys, self._raptorq = receiver, list(keys), fountain()
        self._decoders: dict[ObjectId, Any] = {}
        self._objects: dict[ObjectId, bytes] = {}
        self._files: dict[str, bytes] | None = None
        self._bundle: ObjectId | None = None
        self._is_fresh = False
        self._version = 0
        self._wanted: tuple[bytes, int] = (b"", 0)
        self._progress: dict[ObjectId, int] = {}
        self._stale: dict[ObjectId, None] = {}

    def prepare(self) -> None:
        """Wait until metadata are on the air; raises `NetworkError` as `get` does."""
        while self._files is None or not self._is_fresh:
            self._receive(AIR_URL, None)

    def wait_for_news(self) -> None:
        """Wait until other metadata than the last ones are on the air, however long that takes."""
        known = self._bundle
        while self._bundle == known:
            with contextlib.suppress(NetworkError):
                self._receive(AIR_URL, None)

    def forget(self, url: str, start: int) -> None:
        """Let go of what holds a place of a stream: it was put together of something that was never published."""
        stream = _stream_of(url)
        for what in [what for what in self._objects if _holds(what, stream, start)]:
            del self._objects[what]

    def begin(self, keys: Sequence[SSlibKey], end_s: float, *, least_version: int = 0) -> None:
        """Begin a visit: metadata count once they are on the air again.

        Args:
            keys: By which packets may be signed.
            end_s: When it ends, in the clock's seconds.
            least_version: Of the timestamp: metadata from before are left, for anybody can play old packets again.
        """
        self.keys, self.end_s, self._is_fresh = list(keys), end_s, False
        self._version = max(self._version, least_version)

    @property
    def rate_bps(self) -> float | None:
        """None: what is lost, and what else is sent, leaves no rate to tell."""
        return None

    def post(self, url: str, body: bytes) -> None:  # noqa: ARG002
        """Raise `NetworkError`: nobody listens."""
        raise NetworkError(f"{url}: a broadcast has no way back")

    def _bytes(self, url: str, start: int, stop: int | None) -> Iterator[bytes]:
        path = url.partition("://")[2].partition("/")[2]
        if path.startswith("streams/"):
            yield from self._stream(url, _stream_of(url), start, stop)
            return
        self.prepare()
        if self._files is None or path not in self._files:
            raise HttpError(f"{url}: is not part of the broadcast", 404)
        yield self._files[path][start:stop]

    def _stream(self, url: str, stream: bytes, start: int, stop: int | None) -> Iterator[bytes]:
        while stop is None or start < stop:
            self._want(stream, start)
            held = next((what for what in self._objects if _holds(what, stream, start)), None)
            if held is None:
                if stop is None:
                    return
                self._receive(url, stream)
                continue
            chunk = self._objects[held][start - held.start :]
            chunk = chunk if stop is None else chunk[: stop - start]
            start += len(chunk)
            yield chunk

    def _want(self, stream: bytes, start: int) -> None:
        """Let go of what is not asked for any more: other releases, and what lies before `start`."""
        self._wanted = (stream, start)
        for kept in (self._decoders, self._objects):
            for what in [what for what in kept if not what.is_bundle]:
                if what.stream != stream or what.start + what.length <= start:
                    kept.pop(what)

    def _has_room(self, what: ObjectId) -> bool:
        """Whether an object may be begun; what will be asked for later gives way to it."""
        if what.is_bundle:
            bundles = [other for other in self._decoders if other.is_bundle]
            if len(bundles) >= MAX_BUNDLES:
                del self._decoders[min(bundles, key=lambda other: self._progress.get(other, 0))]
            return True
        stream, start = self._wanted
        if what.stream == stream and what.start + what.length <= start:
            return False
        streamed = [other for other in (*self._decoders, *self._objects) if not other.is_bundle]
        spare = MAX_HELD_BYTES - sum(other.length for other in streamed)
        for other in sorted(streamed, key=self._turn, reverse=True):
            if spare >= what.length or self._turn(other) <= self._turn(what):
                break
            self._decoders.pop(other, None)
            self._objects.pop(other, None)
            spare += other.length
        return spare >= what.length

    def _turn(self, what: ObjectId) -> tuple[bool, int]:
        """Sorts by when it will be asked for, as far as can be told."""
        return what.stream != self._wanted[0], what.start

    def _receive(self, url: str, stream: bytes | None) -> None:
        """Take packets until one was good; raises `NetworkError` if none comes, or the deadline has come."""
        began = self.clock.now_s()
        heard_s = began
        while True:
            now = self.clock.now_s()
            if self.left_s <= 0:
                raise NetworkError(f"{url}: the deadline has come")
            if now - heard_s >= self.limits.stall_timeout_s:
                raise NetworkError(f"{url}: nothing was heard for {now - heard_s:.0f} s")
            if now - began >= 2 * self.limits.stall_timeout_s:
                raise NetworkError(f"{url}: is not on the air any more")
            self._receiver.settimeout(max(0.001, min(self.limits.stall_timeout_s, self.left_s)))
            try:
                packet = self._receiver.recv(MAX_PACKET_BYTES)
            except TimeoutError:
                continue
            except OSError as error:
                raise NetworkError(f"{url}: {(error.strerror or str(error)).lower()}") from error
            self.air_bytes += len(packet)
            self.num_packets += 1
            try:
                what, symbol = open_packet(self.keys, packet)
                self._feed(what, symbol)
            except TrustError:
                self.num_refused += 1
                continue
            heard_s = self.clock.now_s()
            if stream is None or what.stream == stream:
                return

    def _feed(self, what: ObjectId, symbol: bytes) -> None:
        if what in self._stale:
            return
        if what in self._objects or what == self._bundle:
            self._is_fresh = self._is_fresh or what == self._bundle
            return
        if what not in self._decoders:
            if not self._has_room(what):
                return
            self._decoders[what] = self._raptorq.Decoder.with_defaults(what.length, what.symbol_bytes)
        content = self._decoders[what].decode(symbol)
        if content is None:
            if what.is_bundle:
                kept = {other: count for other, count in self._progress.items() if other in self._decoders}
                self._progress = kept | {what: kept.get(what, 0) + 1}
            return
        del self._decoders[what]
        if not what.is_bundle:
            self._objects[what] = content
            return
        if hashlib.sha256(content).digest()[:16] != what.stream:
            raise TrustError("bundle: not the one that its packets named")
        files = unpack_bundle(content)
        version = _timestamp_version(files.get("metadata/timestamp.json", b""))
        if version < self._version:
            self._stale[what] = None
            if len(self._stale) > MAX_STALE:
                del self._stale[next(iter(self._stale))]
            raise TrustError.of("version of the timestamp", version, f"{self._version} or more, which was heard before")
        self._files, self._bundle, self._is_fresh, self._version = files, what, True, version
        for other in [other for other in self._decoders if other.is_bundle]:
            del self._decoders[other]


def _holds(what: ObjectId, stream: bytes, start: int) -> bool:
    return what.stream == stream and what.start <= start < what.start + what.length


def _stream_of(url: str) -> bytes:
    """Return how packets name the stream at a URL."""
    return bytes.fromhex(Path(url).stem)[:16]


def known_version(trust: Path) -> int:
    """Return the version of the timestamp that a device trusts; 0: none, or it is damaged."""
    try:
        return _timestamp_version((trust / "timestamp.json").read_bytes())
    except OSError:
        return 0


def _timestamp_version(content: bytes) -> int:
    """Return the version that a timestamp claims, which whoever trusts it verifies; 0: none."""
    try:
        version = json.loads(content)["signed"]["version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0
    return version if isinstance(version, int) else 0


def trusted_keys(trust: Path, root: bytes | None) -> list[SSlibKey]:
    """Return the keys that packets may be signed by: of the newest root that the device trusts, and of `root`.

    They only tell which packets are worth putting together: what comes of them is verified from the device's first
    root on, whatever is given here.

    Args:
        trust: Folder of the device's metadata.
        root: To trust at first, or a newer one, where the timestamp key has changed and no packet of the old key came.

    Raises:
        SettingsError: There is no root at all.
        TrustError: `root` is damaged, or none.
    """
    trusted = newest_trusted_root(trust)
    if trusted is None and root is None:
        raise SettingsError("root: none is trusted yet, and a broadcast cannot be asked for one; give --root")
    keys = [key for found in (trusted, root) if found is not None for key in packet_keys(found)]
    return list({key.keyid: key for key in keys}.values())


def listen_at(host: str, port: int) -> socket.socket:
    """Return a socket for packets to an address; of a group of addresses it becomes a member.

    Raises:
        SettingsError: The address is none of this machine's, and no group.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
        )[0]
        receiver = socket.socket(family, socket.SOCK_DGRAM)
        try:
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            receiver.bind(address)
            _join(receiver, str(address[0]))
        except BaseException:
            receiver.close()
            raise
    except (OSError, UnicodeError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise SettingsError.of("address", f"{host}:{port}", f"one of this machine or a group ({reason})") from error
    return receiver


def _join(receiver: socket.socket, host: str) -> None:
    address = ipaddress.ip_address(host.partition("%")[0])
    if not address.is_multicast:
        return
    if address.version == 4:
        member = address.packed + socket.inet_aton("0.0.0.0")  # noqa: S104 - whatever interface the system takes
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    else:
        receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, address.packed + struct.pack("@I", 0))
