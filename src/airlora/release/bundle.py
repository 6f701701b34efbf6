"""The signed metadata as one small file, so that a weak link need not be asked for them one by one.

`metadata/bundle.z`, and `metadata/<tenant>.bundle.z`, hold what `timestamp.json` leads to: a device asks once where it
would ask five times.  Nothing in it is trusted for being in it, and who lacks it or finds it stale asks for the files.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping

from airlora.errors import ReleaseError, TrustError

__all__ = ["MAX_BUNDLE_BYTES", "NEWEST_ROOT", "bundle_name", "pack_bundle", "unpack_bundle"]

MAX_BUNDLE_BYTES = 4 << 20
"""Of the files in a bundle."""

MAX_PACKED_BYTES = 1 << 20

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
    text = json.dumps({path: content.decode() for path, content in files.items()}, separators=(",", ":"))
    bundle = zlib.compress(text.encode(), 9)
    if len(text) > MAX_BUNDLE_BYTES or len(bundle) > MAX_PACKED_BYTES:
        raise ReleaseError.of("bytes of metadata", len(text), f"at most {MAX_BUNDLE_BYTES} for a bundle")
    return bundle, hashlib.sha256(bundle).digest()[:16]


def unpack_bundle(bundle: bytes) -> dict[str, bytes]:
    """Return the files of a bundle; raises `TrustError` if it is none."""
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(bundle, MAX_BUNDLE_BYTES)
        if not unpacker.eof:
            raise TrustError(f"bundle: cut, or more than {MAX_BUNDLE_BYTES} bytes")
        value = json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise TrustError("bundle: damaged") from error
    if not isinstance(value, dict) or not all(isinstance(content, str) for content in value.values()):
        raise TrustError("bundle: damaged")
    try:
        return {path: content.encode() for path, content in value.items()}
    except UnicodeEncodeError as error:
        raise TrustError("bundle: damaged") from error
