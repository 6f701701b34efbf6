"""Packets of a broadcast: nobody answers, some are lost, anybody may send; each is believed for itself or not at all.

```text
ALC1 | stream 16 | start 4 | length 4 | symbol_bytes 2 | RaptorQ packet: 4 + symbol_bytes | Ed25519 signature 64
```

`length` bytes of a stream from `start` on are one object of RaptorQ (RFC 6330): any symbols of it that are a few more
than `length / symbol_bytes` give it back, whichever were lost.  `stream` is how the stream's digest begins; an object
that starts at `BUNDLE` is the signed metadata instead, and `stream` how their digest begins.  The signature is by the
repository's timestamp key, over all before it and a prefix of its own: a forged symbol would spoil a whole object.
What was put together is verified again, as if a web server had sent it.
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
"""Bytes of a packet beside its symbol."""

BUNDLE = 0xFFFFFFFF
"""Where an object starts that is no part of a stream."""

MAX_OBJECT_BYTES = 1 << 20
"""Of an object; RaptorQ makes one block of so many, and a device holds a few of them."""


@dataclass(frozen=True, slots=True)
class ObjectId:
    """What a symbol is of.

    Args:
        stream: How the digest of the stream, or of the bundle, begins: 16 bytes.
        start: Where the object starts in the stream, or `BUNDLE`.
        length: Bytes of it, 1 to `MAX_OBJECT_BYTES`.
        symbol_bytes: Of each symbol, a multiple of 8.
    """

    stream: bytes
    start: int
    length: int
    symbol_bytes: int

    @property
    def is_bundle(self) -> bool:
        """Whether it is the signed metadata."""
        return self.start == BUNDLE


def seal_packet(signer: Signer, what: ObjectId, symbol: bytes) -> bytes:
    """Return a packet; `symbol` is a serialised packet of RaptorQ."""
    body = _HEADER.pack(_MAGIC, what.stream, what.start, what.length, what.symbol_bytes) + symbol
    return body + bytes.fromhex(signer.sign(_DOMAIN + body).signature)


def open_packet(keys: Sequence[SSlibKey], packet: bytes) -> tuple[ObjectId, bytes]:
    """Return what a packet is of, and its symbol.

    Raises:
        TrustError: It is no packet, is not signed by one of the keys, or says what cannot be.
    """
    if len(packet) < PACKET_OVERHEAD or not packet.startswith(_MAGIC):
        raise TrustError("packet: none of airlora's")
    body, signature = packet[:-_SIGNATURE_BYTES], packet[-_SIGNATURE_BYTES:].hex()
    if not any(_is_by(key, signature, _DOMAIN + body) for key in keys):
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
        raise TrustError("packet: signed, but of a form that airlora does not send")
    return ObjectId(stream, start, length, symbol_bytes), symbol


def packet_keys(root: bytes) -> list[SSlibKey]:
    """Return the keys that packets may be signed by, according to a root.

    Raises:
        TrustError: It is no root.
    """
    try:
        signed = Metadata[Root].from_bytes(root).signed
        if not isinstance(signed, Root):
            raise TrustError("root: metadata of another kind")
        keys = [signed.get_key(keyid) for keyid in signed.roles["timestamp"].keyids]
    except (RepositoryError, ValueError) as error:
        raise TrustError(f"root: {error}") from error
    return [key for key in keys if isinstance(key, SSlibKey) and key.keytype == "ed25519"]


def _is_by(key: SSlibKey, signature: str, data: bytes) -> bool:
    try:
        key.verify_signature(Signature(key.keyid, signature), data)
    except SigningError:
        return False
    return True
