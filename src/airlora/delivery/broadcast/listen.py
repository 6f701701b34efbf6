"""Transport that receives a broadcast: files and ranges are served from packets that nobody asked for.

`airlora.delivery.visit` works on it as on any other transport. A request waits until its packets have arrived. Packets
of other objects that arrive meanwhile are kept for later requests.

States of an object (a range of a stream, or a bundle of signed metadata), and what changes them:

| state | event | next state |
|---|---|---|
| unknown | a packet arrives, and there is room | decoding |
| unknown | a packet arrives without room, or its range lies before the requested position | unknown |
| decoding | enough packets of a range | held |
| decoding | enough packets of a bundle that is not older than any before | current; other bundles are unknown |
| decoding | enough packets of an older bundle | stale: its packets are ignored |
| decoding | enough packets of a bundle with another digest | unknown |
| decoding, held | another stream or a later position is requested | unknown |
| decoding, held | an object that is needed earlier takes the room | unknown |
| held | its bytes fail verification (`discard`) | unknown |

The current bundle serves requests once it is *fresh*: a packet of it has arrived since the visit began.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import logging
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from securesystemslib.signer import SSlibKey

from airlora.delivery.broadcast.carousel import fountain
from airlora.delivery.broadcast.packets import MAX_OBJECT_BYTES, ObjectId, open_packet, packet_keys
from airlora.delivery.device.transport import Clock, DownloadLimits, HttpError, Response, TransferMonitor, Transport
from airlora.delivery.repository.bundle import unpack_bundle
from airlora.delivery.repository.client import newest_trusted_root
from airlora.errors import NetworkError, SettingsError, TrustError

__all__ = ["BROADCAST_URL", "BroadcastTransport", "Receiver", "open_receiver", "trusted_timestamp_version"]

log = logging.getLogger(__name__)

BROADCAST_URL = "broadcast://air"
"""Address of the repository in the `AgentConfig` of a device that receives a broadcast."""

MAX_HELD_BYTES = 32 * MAX_OBJECT_BYTES
"""Bytes of all ranges of streams in the states decoding and held."""

MAX_BUNDLES = 16
"""Number of bundles in the state decoding."""

MAX_STALE = 64
"""Number of bundles in the state stale."""

MAX_PACKET_BYTES = 65_535

RECEIVE_BUFFER_BYTES = 4 << 20
"""Size of the socket's receive buffer, so that no packet is lost during a write to a slow disk."""


class Receiver(Protocol):
    """Source of packets, such as a UDP socket."""

    def settimeout(self, seconds: float, /) -> None:
        """Set the maximum seconds that `recv` waits."""

    def recv(self, size: int, /) -> bytes:
        """Return the next packet; raise `TimeoutError` if none arrives."""


class BroadcastTransport(Transport):
    """Transport that receives a broadcast.

    Args:
        receiver: Source of the packets.
        trust: Folder of the device's metadata, which name the keys that may sign packets.
        root: Root metadata to trust first, which name further keys. A newer root is needed if the timestamp key was
            replaced and no packet signed with the old key was received since. None uses the trusted root alone.
        limits: Limits of the device. A request fails after `stall_timeout_s` without a valid packet, and after twice
            that time without a packet of the requested stream.
        clock: Source of time. None uses the system's monotonic clock.

    Attributes:
        monitor: Deadline, limits and byte counts. It measures no rate, since a broadcast carries other objects too.
        received_bytes: Bytes of all received packets.
        num_packets: Number of received packets.
        num_rejected: Number of packets that were forged, damaged or older than packets before.

    Raises:
        SettingsError: Neither the folder nor `root` holds root metadata.
        TrustError: `root` is not valid root metadata.
        MissingDependencyError: `raptorq` is not installed.
    """

    def __init__(
        self,
        receiver: Receiver,
        trust: Path,
        *,
        root: bytes | None = None,
        limits: DownloadLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.monitor = TransferMonitor(limits, clock=clock)
        self.received_bytes = self.num_packets = self.num_rejected = 0
        self._receiver, self._trust, self._root, self._objects = receiver, trust, root, _ObjectStore()
        self._keys = _packet_keys(trust, root)

    def prepare(self) -> None:
        """Read the trusted metadata and wait until metadata are received that are not older.

        Raises:
            NetworkError: No metadata were received in time.
            TrustError: The trusted metadata are damaged.
        """
        self._keys = _packet_keys(self._trust, self._root)
        # Anybody can replay packets with older metadata.
        self._objects.require_fresh(trusted_timestamp_version(self._trust))
        self._wait_until_fresh()

    def wait_for_new_metadata(self) -> None:
        """Remove the deadline and wait until other metadata than the current ones are broadcast."""
        self.monitor.set_deadline(None)
        known = self._objects.bundle
        while self._objects.bundle == known:
            with contextlib.suppress(NetworkError):
                self._receive(BROADCAST_URL, None)

    def get(self, url: str, *, start: int = 0, stop: int | None = None, etag: str | None = None) -> Response:  # noqa: ARG002
        """Return a range of a file; see `Transport.get`. Files besides metadata and streams have status 404."""
        path = url.partition("://")[2].partition("/")[2]
        chunks = self._stream(url, start, stop) if path.startswith("streams/") else self._file(url, path, start, stop)
        return Response(self.monitor.count(url, chunks, is_timed=False))

    def post(self, url: str, body: bytes) -> None:  # noqa: ARG002
        """Raise `NetworkError`: a broadcast has no uplink."""
        raise NetworkError(f"{url}: a broadcast has no uplink")

    def discard(self, url: str, start: int) -> None:
        """Drop the range that contains a byte of a stream, because it failed verification."""
        self._objects.discard(_stream_id(url), start)

    def _file(self, url: str, path: str, start: int, stop: int | None) -> Iterator[bytes]:
        self._wait_until_fresh()
        if path not in self._objects.files:
            raise HttpError(f"{url}: not part of the broadcast", 404)
        yield self._objects.files[path][start:stop]

    def _stream(self, url: str, start: int, stop: int | None) -> Iterator[bytes]:
        stream = _stream_id(url)
        while stop is None or start < stop:
            self._objects.request(stream, start)
            content = self._objects.find(stream, start)
            if content is None:
                if stop is None:
                    return
                self._receive(url, stream)
                continue
            chunk = content if stop is None else content[: stop - start]
            start += len(chunk)
            yield chunk

    def _wait_until_fresh(self) -> None:
        while not self._objects.is_fresh:
            self._receive(BROADCAST_URL, None)

    def _receive(self, url: str, stream: bytes | None) -> None:
        """Receive packets until one is valid and belongs to the stream. None accepts a packet of any object."""
        stall_s, clock = self.monitor.limits.stall_timeout_s, self.monitor.clock
        began_s = valid_s = clock.now_s()
        while True:
            now_s = clock.now_s()
            self.monitor.verify_time_left(url)
            if now_s - valid_s >= stall_s:
                raise NetworkError(f"{url}: no packet received for {now_s - valid_s:.0f} s")
            if now_s - began_s >= 2 * stall_s:
                raise NetworkError(f"{url}: no longer broadcast")
            self._receiver.settimeout(max(0.001, min(stall_s, self.monitor.left_s)))
            try:
                packet = self._receiver.recv(MAX_PACKET_BYTES)
            except TimeoutError:
                continue
            except OSError as error:
                raise NetworkError(f"{url}: {(error.strerror or str(error)).lower()}") from error
            self.received_bytes += len(packet)
            self.num_packets += 1
            try:
                object_id, symbol = open_packet(self._keys, packet)
                self._objects.feed(object_id, symbol)
            except TrustError as error:
                self.num_rejected += 1
                log.debug("packet rejected: %s", error)
                continue
            valid_s = clock.now_s()
            if stream is None or object_id.stream == stream:
                return


class _ObjectStore:
    """Objects of a broadcast in the states of this module's table. It reads no socket and no clock."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.bundle: ObjectId | None = None
        self.is_fresh = False
        self._raptorq = fountain()
        self._decoders: dict[ObjectId, Any] = {}
        self._held: dict[ObjectId, bytes] = {}
        self._stale: dict[ObjectId, None] = {}
        self._num_symbols: dict[ObjectId, int] = {}
        self._version = 0
        self._requested: tuple[bytes, int] = (b"", 0)

    def require_fresh(self, min_version: int) -> None:
        self.is_fresh, self._version = False, max(self._version, min_version)

    def request(self, stream: bytes, start: int) -> None:
        """Set the requested position and drop the ranges of other streams and of earlier positions."""
        self._requested = (stream, start)
        for kept in (self._decoders, self._held):
            for object_id in [object_id for object_id in kept if not object_id.is_bundle]:
                if object_id.stream != stream or object_id.start + object_id.length <= start:
                    kept.pop(object_id)

    def find(self, stream: bytes, start: int) -> bytes | None:
        """Return the bytes of a held range from a position on. None if no range contains it."""
        object_id = next((object_id for object_id in self._held if _contains(object_id, stream, start)), None)
        return None if object_id is None else self._held[object_id][start - object_id.start :]

    def discard(self, stream: bytes, start: int) -> None:
        for object_id in [object_id for object_id in self._held if _contains(object_id, stream, start)]:
            del self._held[object_id]

    def feed(self, object_id: ObjectId, symbol: bytes) -> None:
        """Take the symbol of a valid packet; raise `TrustError` if it completes an invalid or older bundle."""
        if object_id in self._stale or object_id in self._held:
            return
        if object_id == self.bundle:
            self.is_fresh = True
            return
        if object_id not in self._decoders:
            if not self._make_room(object_id):
                return
            self._decoders[object_id] = self._raptorq.Decoder.with_defaults(object_id.length, object_id.symbol_bytes)
        content = self._decoders[object_id].decode(symbol)
        if content is None:
            if object_id.is_bundle:
                kept = {other: count for other, count in self._num_symbols.items() if other in self._decoders}
                self._num_symbols = kept | {object_id: kept.get(object_id, 0) + 1}
            return
        del self._decoders[object_id]
        if object_id.is_bundle:
            self._accept_bundle(object_id, content)
        else:
            self._held[object_id] = content

    def _accept_bundle(self, object_id: ObjectId, content: bytes) -> None:
        if hashlib.sha256(content).digest()[:16] != object_id.stream:
            raise TrustError("bundle: its digest differs from that of its packets")
        files = unpack_bundle(content)
        version = _timestamp_version(files.get("metadata/timestamp.json", b""))
        if version < self._version:
            self._stale[object_id] = None
            if len(self._stale) > MAX_STALE:
                del self._stale[next(iter(self._stale))]
            raise TrustError.of("version of the timestamp", version, f"{self._version} or more, as received before")
        self.files, self.bundle, self.is_fresh, self._version = files, object_id, True, version
        log.info("received metadata, timestamp version %d", version)
        for other in [other for other in self._decoders if other.is_bundle]:
            del self._decoders[other]

    def _make_room(self, object_id: ObjectId) -> bool:
        """Return whether an object may be decoded, after dropping objects that are needed later."""
        if object_id.is_bundle:
            bundles = [other for other in self._decoders if other.is_bundle]
            if len(bundles) >= MAX_BUNDLES:
                del self._decoders[min(bundles, key=lambda other: self._num_symbols.get(other, 0))]
            return True
        stream, start = self._requested
        if object_id.stream == stream and object_id.start + object_id.length <= start:
            return False
        ranges = [other for other in (*self._decoders, *self._held) if not other.is_bundle]
        room = MAX_HELD_BYTES - sum(other.length for other in ranges)
        for other in sorted(ranges, key=self._turn, reverse=True):
            if room >= object_id.length or self._turn(other) <= self._turn(object_id):
                break
            self._decoders.pop(other, None)
            self._held.pop(other, None)
            room += other.length
        return room >= object_id.length

    def _turn(self, object_id: ObjectId) -> tuple[bool, int]:
        """Return a sort key for the time at which a range is needed."""
        return object_id.stream != self._requested[0], object_id.start


def _contains(object_id: ObjectId, stream: bytes, start: int) -> bool:
    return object_id.stream == stream and object_id.start <= start < object_id.start + object_id.length


def _stream_id(url: str) -> bytes:
    return bytes.fromhex(Path(url).stem)[:16]


def trusted_timestamp_version(trust: Path) -> int:
    """Return the version of the timestamp metadata that a device trusts. 0 if the file is missing or damaged.

    Args:
        trust: Folder of the device's metadata.
    """
    try:
        return _timestamp_version((trust / "timestamp.json").read_bytes())
    except OSError:
        return 0


def _timestamp_version(content: bytes) -> int:
    """Return the unverified version of timestamp metadata. 0 if there is none."""
    try:
        version = json.loads(content)["signed"]["version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0
    return version if isinstance(version, int) else 0


def _packet_keys(trust: Path, root: bytes | None) -> list[SSlibKey]:
    """Return the keys that may sign packets.

    They only select the packets worth decoding. The decoded metadata are verified from the device's first root on.
    """
    trusted = newest_trusted_root(trust)
    if trusted is None and root is None:
        raise SettingsError(
            f"No trusted root metadata in {trust}. Pass `--root 1.root.json` from the repository's operator."
        )
    keys = [key for found in (trusted, root) if found is not None for key in packet_keys(found)]
    return list({key.keyid: key for key in keys}.values())


def open_receiver(host: str, port: int) -> socket.socket:
    """Return a UDP socket bound to an address. For a multicast address it joins the group.

    Args:
        host: Address of this machine, a multicast address, or an empty string for all addresses of this machine.
        port: UDP port.

    Raises:
        SettingsError: The address does not exist on this machine and is not a multicast address.
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
        raise SettingsError.of(
            "address", f"{host}:{port}", f"an address of this machine or a multicast address ({reason})"
        ) from error
    return receiver


def _join(receiver: socket.socket, host: str) -> None:
    address = ipaddress.ip_address(host.partition("%")[0])
    if not address.is_multicast:
        return
    if address.version == 4:
        member = address.packed + socket.inet_aton("0.0.0.0")  # noqa: S104 - the system chooses the interface
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    else:
        receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, address.packed + struct.pack("@I", 0))
