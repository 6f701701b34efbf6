"""A bundle: all signed metadata in one compressed file, so that a device needs one request instead of five.

`metadata/bundle.z` and `metadata/<tenant>.bundle.z` hold the files that `timestamp.json` refers to.  A device verifies
each file of a bundle as if it had been fetched alone, and fetches the files one by one where the bundle is missing.

Format: one zlib stream.  Each file follows a line with its path and its length in bytes.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Mapping

from airlora.errors import ReleaseError, TrustError

__all__ = ["MAX_BUNDLE_BYTES", "NEWEST_ROOT", "bundle_name", "pack_bundle", "unpack_bundle"]

MAX_BUNDLE_BYTES = 2 << 20
"""Largest size of the unpacked files.  It bounds memory, since a bundle is unpacked before it is verified."""

MAX_PACKED_BYTES = 1 << 20
MAX_FILES = 5000

_ENTRY = re.compile(rb"([\x21-\x7e]{1,300}) ([0-9]{1,7})\n")

NEWEST_ROOT = "newest-root"
"""Name of the bundle's entry with the version of the newest root.  A device fetches roots that it lacks one by one."""


def bundle_name(tenant: str | None) -> str:
    """Return the file name of a bundle in the folder `metadata`; None is the bundle for devices without a tenant."""
    return "bundle.z" if tenant is None else f"{tenant}.bundle.z"


def pack_bundle(files: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    """Return a bundle and the first 16 bytes of its SHA-256.

    Args:
        files: Content of each file by its path below the repository.

    Raises:
        ReleaseError: The files are larger than `MAX_BUNDLE_BYTES`, or the bundle than `MAX_PACKED_BYTES`.
    """
    content = b"".join(f"{path} {len(content)}\n".encode() + content for path, content in files.items())
    bundle = zlib.compress(content, 9)
    if len(content) > MAX_BUNDLE_BYTES or len(bundle) > MAX_PACKED_BYTES:
        raise ReleaseError.of("bytes of metadata", len(content), f"at most {MAX_BUNDLE_BYTES} for a bundle")
    return bundle, hashlib.sha256(bundle).digest()[:16]


def unpack_bundle(bundle: bytes) -> dict[str, bytes]:
    """Return the files of a bundle by path; raises `TrustError` if it is damaged or too large."""
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(bundle, MAX_BUNDLE_BYTES)
    except zlib.error as error:
        raise TrustError("bundle: damaged") from error
    if not unpacker.eof:
        raise TrustError(f"bundle: truncated, or larger than {MAX_BUNDLE_BYTES} bytes when unpacked")
    files: dict[str, bytes] = {}
    offset = 0
    while offset < len(content):
        entry = _ENTRY.match(content, offset)
        end = offset if entry is None else entry.end() + int(entry[2])
        if entry is None or end > len(content) or len(files) >= MAX_FILES:
            raise TrustError("bundle: damaged")
        files[entry[1].decode()] = content[entry.end() : end]
        offset = end
    return files
