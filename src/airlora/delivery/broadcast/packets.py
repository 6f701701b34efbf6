"""Packets of a broadcast.  Receivers cannot answer, packets get lost, and anybody may send: every packet is signed.

```text
ALC1 | stream 16 | start 4 | length 4 | symbol_bytes 2 | RaptorQ packet: 4 + symbol_bytes | Ed25519 signature 64
```

The `length` bytes of a stream from `start` on are one RaptorQ object (RFC 6330).  Slightly more than
`length / symbol_bytes` different symbols restore it, whichever were lost.  `stream` is the first 16 bytes of the
stream's digest.  An object that starts at `BUNDLE` is the bundle of signed metadata, and `stream` the first 16 bytes of
its SHA-256.

The repository's timestamp key signs a domain prefix and everything before the signature, because one forged symbol
would spoil a whole object.  A device verifies a restored object again, as if a web server had sent it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from securesystemslib.exceptions import Error as SigningError
from securesystemslib.signer import Signature, Signer, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from airlora.errors import TrustError

__all__ = [
    "BUNDLE",
    "MAX_OBJECT_BYTES",
    "PACKET_OVERHEAD",
    "ObjectId",
    "open_packet",
    "packet_keys",
    "seal_packet",
]

_HEADER = struct.Struct(">4s16sIIH")
_MAGIC = b"ALC1"
_DOMAIN = b"airlora broadcast packet 1\0"
_SIGNATURE_BYTES = 64
_PAYLOAD_ID_BYTES = 4

PACKET_OVERHEAD = _HEADER.size + _PAYLOAD_ID_BYTES + _SIGNATURE_BYTES
"""Bytes of a packet without its symbol."""

BUNDLE = 0xFFFFFFFF
"""Start of the object that is the bundle of signed metadata."""

MAX_OBJECT_BYTES = 1 << 20
"""Largest object.  It fits one source block of RaptorQ, and a device can hold several in memory."""


@dataclass(frozen=True, slots=True)
class ObjectId:
    """Identity of an object.

    Args:
        stream: First 16 bytes of the SHA-256 of the stream or bundle.
        start: Offset of the object in the stream, bytes, or `BUNDLE`.
        length: Length of the object, bytes, 1 to `MAX_OBJECT_BYTES`.
        symbol_bytes: Length of each symbol, bytes, a multiple of 8.
    """

    stream: bytes
    start: int
    length: int
    symbol_bytes: int

    @property
    def is_bundle(self) -> bool:
        """Whether the object is the bundle of signed metadata."""
        return self.start == BUNDLE


def seal_packet(signer: Signer, object_id: ObjectId, symbol: bytes) -> bytes:
    """Return a signed packet of an object; `symbol` is a serialised RaptorQ packet."""
    body = _HEADER.pack(_MAGIC, object_id.stream, object_id.start, object_id.length, object_id.symbol_bytes) + symbol
    return body + bytes.fromhex(signer.sign(_DOMAIN + body).signature)


def open_packet(keys: Sequence[SSlibKey], packet: bytes) -> tuple[ObjectId, bytes]:
    """Return the object of a packet, and its symbol.

    Args:
        keys: Public keys, one of which must have signed the packet.
        packet: Bytes received.

    Raises:
        TrustError: The bytes are not a packet, no key has signed them, or a field is out of range.
    """
    if len(packet) < PACKET_OVERHEAD or not packet.startswith(_MAGIC):
        raise TrustError("packet: not an airlora packet")
    body, signature = packet[:-_SIGNATURE_BYTES], packet[-_SIGNATURE_BYTES:].hex()
    if not any(_is_signed_by(key, signature, _DOMAIN + body) for key in keys):
        raise TrustError("packet: not signed by the repository's timestamp key")
    _, stream, start, length, symbol_bytes = _HEADER.unpack_from(body)
    symbol = body[_HEADER.size :]
    is_right = (
        1 <= length <= MAX_OBJECT_BYTES
        and symbol_bytes >= 8
        and symbol_bytes % 8 == 0
        and len(symbol) == _PAYLOAD_ID_BYTES + symbol_bytes
        # An object is one block, so that no symbol is of another.
        and symbol[0] == 0
    )
    if not is_right:
        raise TrustError("packet: signed, but a field is out of range")
    return ObjectId(stream, start, length, symbol_bytes), symbol


def packet_keys(root: bytes) -> list[SSlibKey]:
    """Return the Ed25519 timestamp keys of a root, which sign packets.

    Raises:
        TrustError: The bytes are not root metadata.
    """
    try:
        signed = Metadata[Root].from_bytes(root).signed
        if not isinstance(signed, Root):
            raise TrustError("root: metadata of another role")
        keys = [signed.get_key(keyid) for keyid in signed.roles["timestamp"].keyids]
    except (RepositoryError, ValueError) as error:
        raise TrustError(f"root: {error}") from error
    return [key for key in keys if isinstance(key, SSlibKey) and key.keytype == "ed25519"]


def _is_signed_by(key: SSlibKey, signature: str, data: bytes) -> bool:
    try:
        key.verify_signature(Signature(key.keyid, signature), data)
    except SigningError:
        return False
    return True
