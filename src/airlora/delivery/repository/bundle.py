"""The signed metadata as one small file, so that a weak link need not be asked for them one by one.

`metadata/bundle.z`, and `metadata/<tenant>.bundle.z`, hold what `timestamp.json` leads to: a device asks once where it
would ask five times.  Nothing in it is trusted for being in it, and who lacks it asks for the files.

It is a run of files, each behind a line of its path and its length, in one stream of zlib.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Mapping

from airlora.errors import ReleaseError, TrustError

__all__ = ["MAX_BUNDLE_BYTES", "NEWEST_ROOT", "bundle_name", "pack_bundle", "unpack_bundle"]

MAX_BUNDLE_BYTES = 2 << 20
"""Of the files in a bundle: nothing of them is trusted before they are there."""

MAX_PACKED_BYTES = 1 << 20

MAX_FILES = 5000
"""In a bundle; all but a few are roots."""

_ENTRY = re.compile(rb"([\x21-\x7e]{1,300}) ([0-9]{1,7})\n")

NEWEST_ROOT = "newest-root"
"""Name under which a bundle holds the number of the newest root; roots themselves are asked for where they are new."""


def bundle_name(tenant: str | None) -> str:
    """Return the file of a bundle, below `metadata`."""
    return "bundle.z" if tenant is None else f"{tenant}.bundle.z"


def pack_bundle(files: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    """Return files, by their path below the repository, as one compressed object, and how its digest begins.

    Raises:
        ReleaseError: They are too large.
    """
    content = b"".join(f"{path} {len(content)}\n".encode() + content for path, content in files.items())
    bundle = zlib.compress(content, 9)
    if len(content) > MAX_BUNDLE_BYTES or len(bundle) > MAX_PACKED_BYTES:
        raise ReleaseError.of("bytes of metadata", len(content), f"at most {MAX_BUNDLE_BYTES} for a bundle")
    return bundle, hashlib.sha256(bundle).digest()[:16]


def unpack_bundle(bundle: bytes) -> dict[str, bytes]:
    """Return the files of a bundle; raises `TrustError` if it is none."""
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(bundle, MAX_BUNDLE_BYTES)
    except zlib.error as error:
        raise TrustError("bundle: damaged") from error
    if not unpacker.eof:
        raise TrustError(f"bundle: cut, or more than {MAX_BUNDLE_BYTES} bytes")
    files: dict[str, bytes] = {}
    place = 0
    while place < len(content):
        entry = _ENTRY.match(content, place)
        end = place if entry is None else entry.end() + int(entry[2])
        if entry is None or end > len(content) or len(files) >= MAX_FILES:
            raise TrustError("bundle: damaged")
        files[entry[1].decode()] = content[entry.end() : end]
        place = end
    return files
