"""Verification of a repository, first as a device would do it, then of what a device does not see."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface

from airlora.codec import decode_stream
from airlora.delivery.repository.bundle import NEWEST_ROOT, bundle_name, unpack_bundle
from airlora.delivery.repository.client import TrustedClient
from airlora.delivery.repository.manifest import Manifest
from airlora.delivery.repository.repository import SignedRepository
from airlora.errors import ReleaseError, TrustError
from airlora.files import read_bytes

__all__ = ["FolderFetcher", "RepositoryReport", "verify_repository", "verify_stream"]

_EXPIRY_WARNING_FRACTION = 0.25
"""A role is reported when less than this fraction of its validity is left."""


class FolderFetcher(FetcherInterface):
    """Fetches `file:` URLs, so that a repository on this machine can be verified without a server."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = Path(unquote(urlsplit(url).path))
        if not path.is_file():
            raise DownloadHTTPError(f"{path}: no such file", 404)
        yield path.read_bytes()


@dataclass(frozen=True, slots=True)
class RepositoryReport:
    """Result of the verification of a repository.

    Args:
        manifests: Manifest of the newest release by tenant.  The key None is the release for devices without a tenant.
        expires: Time at which each role's metadata expire, UTC.
        warnings: Findings that need attention, one line each.
        num_bytes: Total size of the repository's files, bytes.
    """

    manifests: dict[str | None, Manifest]
    expires: dict[str, datetime]
    warnings: list[str]
    num_bytes: int


def verify_repository(repository: SignedRepository) -> RepositoryReport:
    """Verify every signature, digest and segment of a repository as a device does that starts from the first root.

    Raises:
        TrustError: A device would refuse the repository.
        ReleaseError: A file is damaged, or the repository contains a private key.
        CodecError: A stream is damaged.
    """
    folder = repository.folder
    manifests: dict[str | None, Manifest] = {}
    with tempfile.TemporaryDirectory() as scratch:
        client = TrustedClient(
            Path(scratch),
            (folder / "metadata").resolve().as_uri(),
            (folder / "targets").resolve().as_uri(),
            FolderFetcher(),
            root=read_bytes(folder / "metadata" / "1.root.json", "root", ReleaseError),
        )
        client.refresh()
        for tenant in [None, *repository.tenants]:
            manifest = client.manifest(tenant)
            if manifest is not None:
                manifests[tenant] = manifest
                verify_stream(manifest, read_bytes(folder / manifest.stream.path, "stream", ReleaseError))
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        if b"PRIVATE KEY-----" in path.read_bytes()[:4096]:
            raise ReleaseError(
                f"{path}: a private key inside the public repository; remove it and rotate it by `airlora repo rotate`"
            )
    expires, warnings = {}, []
    now = datetime.now(UTC)
    for role in ["root", "targets", "snapshot", "timestamp", *repository.tenants]:
        signed = repository.open(role).signed
        expires[role] = signed.expires
        whole = timedelta(days=signed.unrecognized_fields.get("x-airlora-days", 0))
        if signed.expires - now < _EXPIRY_WARNING_FRACTION * whole:
            warnings.append(f"{role} expires on {signed.expires:%Y-%m-%d}; sign it again by `airlora repo renew`")
    for tenant in [None, *repository.tenants]:
        bundle = folder / "metadata" / bundle_name(tenant)
        if not bundle.exists() or not _is_newest(repository, tenant, bundle.read_bytes()):
            warnings.append(f"metadata/{bundle.name}: missing or stale; write it again by `airlora repo renew`")
    warnings += [f"{path.relative_to(folder)}: left over from an interrupted write" for path in files if _is_left(path)]
    return RepositoryReport(manifests, expires, warnings, sum(path.stat().st_size for path in files))


def verify_stream(manifest: Manifest, stream: bytes) -> None:
    """Raise `ReleaseError` if a stream is not the manifest's, and `CodecError` if it cannot be decoded."""
    decoded, entry = decode_stream(stream, strict=True), manifest.stream
    for name, found, wanted in (
        ("digest", decoded.digest, entry.digest),
        ("base model", decoded.header.base_fingerprint, manifest.base_fingerprint),
        ("bytes", len(stream), entry.total_bytes),
        ("segments", decoded.num_segments, entry.num_segments),
    ):
        if found != wanted:
            raise ReleaseError.of(f"stream of release {manifest.version}: {name}", found, f"{wanted}, as signed")


def _is_newest(repository: SignedRepository, tenant: str | None, bundle: bytes) -> bool:
    try:
        files = unpack_bundle(bundle)
    except TrustError:
        return False
    newest_root = files.pop(NEWEST_ROOT, b"").decode()
    return files == repository.newest_files(tenant) and newest_root == str(repository.version_of("root"))


def _is_left(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix == ".tmp"
