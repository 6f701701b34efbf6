"""The carousel: order and protection of the packets of a broadcast, repeated in rounds.

A round starts with the bundle of signed metadata and the prefix of the stream that makes a first usable adapter.  Both
get the most repair symbols.  Repair symbols are spread over the rest of the round, so that a burst of losses does not
hit all of them, and a late receiver need not wait for the next round.  Consecutive rounds send different symbols, so
that every received symbol helps to restore its object.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from securesystemslib.signer import Signer

from airlora.codec import StreamReader
from airlora.delivery.broadcast.packets import BUNDLE, MAX_OBJECT_BYTES, PACKET_OVERHEAD, ObjectId, seal_packet
from airlora.delivery.repository.bundle import pack_bundle
from airlora.delivery.repository.manifest import Manifest
from airlora.delivery.repository.publish import current_manifest
from airlora.delivery.repository.repository import SignedRepository
from airlora.errors import MissingDependencyError, ReleaseError
from airlora.files import read_bytes

__all__ = ["MIN_PACKET_BYTES", "Carousel", "fountain", "open_carousel"]

MIN_PACKET_BYTES = PACKET_OVERHEAD + 8
MAX_PACKET_BYTES = 65_000

FIRST_PROTECTION = 1.0
"""Repair symbols per source symbol for the bundle and for the first usable prefix."""

MIN_PROTECTION = 0.1
"""Smallest number of repair symbols per source symbol."""

MAX_REPAIR = 1024
"""Bound on the repair symbols of an object, which are all kept in memory."""

FIRST_GROUP_BYTES = 4 * 1024
"""Size of the first object after the usable prefix.  Each following object is twice as large."""


def fountain() -> Any:
    """Return the module `raptorq`; raises `MissingDependencyError`."""
    try:
        return importlib.import_module("raptorq")
    except ImportError as error:
        raise MissingDependencyError("broadcasts need the package raptorq: pip install 'airlora[broadcast]'") from error


@dataclass(frozen=True)
class _Object:
    """Object of a broadcast with its symbols.

    Args:
        object_id: Identity of the object.
        num_source: Number of source symbols, from which the object can be restored without loss.
        protection: Repair symbols per source symbol in each round.
        symbols: Source symbols and repair symbols.
    """

    object_id: ObjectId
    num_source: int
    protection: float
    symbols: list[bytes]

    def symbols_of_round(self, number: int) -> list[bytes]:
        """Return the symbols of a round. They follow those of the round before and start again after the last.

        Args:
            number: Number of the round, from 0.
        """
        count = self.num_source + max(1, round(self.protection * self.num_source))
        first = number * count
        return [self.symbols[index % len(self.symbols)] for index in range(first, first + count)]


class Carousel:
    """Packets of one release.

    Args:
        manifest: Manifest of the release.
        objects: Objects to send, most important first.
        signer: Signer with the repository's timestamp key.
    """

    def __init__(self, manifest: Manifest, objects: list[_Object], signer: Signer) -> None:
        self.manifest = manifest
        self._objects, self._signer = objects, signer

    @property
    def num_objects(self) -> int:
        """Number of objects."""
        return len(self._objects)

    def round(self, number: int) -> Iterator[bytes]:
        """Yield the packets of a round; the first round is 0."""
        placed: list[tuple[float, int, bytes]] = []
        position = 0.0
        late: list[tuple[int, float, list[bytes]]] = []
        for index, item in enumerate(self._objects):
            symbols = item.symbols_of_round(number)
            # The minimum protection is sent at once. It suffices for a link with few losses.
            num_now = item.num_source + max(1, round(MIN_PROTECTION * item.num_source))
            for symbol in symbols[:num_now]:
                placed.append((position, index, symbol))
                position += 1.0
            late.append((index, position, symbols[num_now:]))
        for index, begins, symbols in late:
            step = (position - begins) / (len(symbols) + 1)
            placed += [(begins + step * (count + 1), index, symbol) for count, symbol in enumerate(symbols)]
        for _, index, symbol in sorted(placed, key=lambda entry: entry[:2]):
            yield seal_packet(self._signer, self._objects[index].object_id, symbol)


def open_carousel(repository: SignedRepository, *, tenant: str | None = None, packet_bytes: int = 1200) -> Carousel:
    """Return the carousel of the newest release.

    Args:
        repository: Repository with its timestamp key.
        tenant: Name of the tenant whose release is sent.  None sends the release for devices without a tenant.
        packet_bytes: Largest size of a packet, bytes, `MIN_PACKET_BYTES` to `MAX_PACKET_BYTES`.

    Raises:
        ReleaseError: There is no release, a file or the key is missing, or `packet_bytes` is out of range.
        MissingDependencyError: `raptorq` is not installed.
    """
    if not MIN_PACKET_BYTES <= packet_bytes <= MAX_PACKET_BYTES:
        raise ReleaseError.of("packet bytes", packet_bytes, f"{MIN_PACKET_BYTES} to {MAX_PACKET_BYTES}")
    manifest = current_manifest(repository, tenant)
    if manifest is None:
        raise ReleaseError(f"{repository.folder}: no release has been published; publish one by `airlora publish`")
    root = repository.root()
    keyids = [keyid for keyid in root.roles["timestamp"].keyids if repository.keys.has("timestamp", keyid)]
    if not keyids:
        raise ReleaseError(f"timestamp key in {repository.keys.folder}: missing; a broadcast must be signed with it")
    signer = repository.signer("timestamp", keyids[0])
    symbol_bytes = packet_bytes - PACKET_OVERHEAD
    bundle, name = pack_bundle(_metadata(repository, tenant))
    objects = [_object(name, BUNDLE, bundle, symbol_bytes, FIRST_PROTECTION)]
    stream = read_bytes(repository.folder / manifest.stream.path, "stream", ReleaseError)
    digest = bytes.fromhex(manifest.stream.digest)[:16]
    for index, (start, stop) in enumerate(_groups(stream)):
        protection = FIRST_PROTECTION if index == 0 else max(MIN_PROTECTION, 0.5 / index)
        objects.append(_object(digest, start, stream[start:stop], symbol_bytes, protection))
    return Carousel(manifest, objects, signer)


def _metadata(repository: SignedRepository, tenant: str | None) -> dict[str, bytes]:
    """Return the files that a device needs before the stream, with all roots, since receivers cannot request any."""
    names = [f"metadata/{version}.root.json" for version in range(1, repository.version_of("root") + 1)]
    roots = {name: read_bytes(repository.folder / name, "metadata", ReleaseError) for name in names}
    return roots | repository.newest_files(tenant)


def _groups(stream: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of each object: the first usable prefix, then groups of segments of growing size."""
    reader, start, size = StreamReader(stream), 0, 0
    is_usable = False
    ends = []
    while (byte_range := reader.next_range) is not None:
        reader.feed(stream[byte_range[0] : byte_range[1]])
        ends.append(byte_range[1])
        if not is_usable:
            decoded = reader.result()
            is_usable = len(decoded.tensors) == len(decoded.header.tensors)
            size = byte_range[1]
    if not ends:
        ends = [len(stream)]
    for end in ends:
        if end - start >= size or end == ends[-1]:
            yield from _split(start, end)
            size = FIRST_GROUP_BYTES if start == 0 else min(2 * size, MAX_OBJECT_BYTES // 2)
            start = end


def _split(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield a range in ranges of at most `MAX_OBJECT_BYTES`."""
    for at in range(start, end, MAX_OBJECT_BYTES):
        yield at, min(end, at + MAX_OBJECT_BYTES)


def _object(stream: bytes, start: int, content: bytes, room: int, protection: float) -> _Object:
    symbol_bytes = min(room - room % 8, -(-len(content) // 8) * 8)
    num_source = -(-len(content) // symbol_bytes)
    # Repair symbols suffice for several rounds. Later rounds repeat symbols, which still help receivers that lost them.
    num_repair = max(64, min(4 * num_source, MAX_REPAIR), num_source)
    symbols = fountain().Encoder.with_defaults(content, symbol_bytes).get_encoded_packets(num_repair)
    if len(symbols) != num_source + num_repair or any(symbol[0] for symbol in itertools.islice(symbols, 1)):
        raise ReleaseError(f"{len(content)} bytes in symbols of {symbol_bytes}: more than one block of RaptorQ")
    return _Object(ObjectId(stream, start, len(content), symbol_bytes), num_source, protection, symbols)
