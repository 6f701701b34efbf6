"""Looking at a repository as a device would, and at what a device would not see."""

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

_SOON = 0.25
"""A role with less than this share of its days left is told of."""


class FolderFetcher(FetcherInterface):
    """Brings the files of a folder on this machine, as a web server would."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = Path(unquote(urlsplit(url).path))
        if not path.is_file():
            raise DownloadHTTPError(f"{path}: no such file", 404)
        yield path.read_bytes()


@dataclass(frozen=True, slots=True)
class RepositoryReport:
    """What was found.

    Args:
        manifests: The newest release by tenant; None stands for everybody.
        expires: When each role's metadata expire, UTC.
        warnings: What is to be seen to, one line each.
        num_bytes: Of all files.
    """

    manifests: dict[str | None, Manifest]
    expires: dict[str, datetime]
    warnings: list[str]
    num_bytes: int


def verify_repository(repository: SignedRepository) -> RepositoryReport:
    """Return what a device would find that starts from the first root: every signature, digest and segment.

    Raises:
        TrustError: A device would refuse.
        ReleaseError: Something is damaged, or a private key lies in the repository.
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
            raise ReleaseError(f"{path}: a private key in the repository, which is published; it is to be replaced")
    expires, warnings = {}, []
    now = datetime.now(UTC)
    for role in ["root", "targets", "snapshot", "timestamp", *repository.tenants]:
        signed = repository.open(role).signed
        expires[role] = signed.expires
        whole = timedelta(days=signed.unrecognized_fields.get("x-airlora-days", 0))
        if signed.expires - now < _SOON * whole:
            warnings.append(f"{role} expires on {signed.expires:%Y-%m-%d}; sign it again by repo renew")
    for tenant in [None, *repository.tenants]:
        bundle = folder / "metadata" / bundle_name(tenant)
        if not bundle.exists() or not _is_newest(repository, tenant, bundle.read_bytes()):
            warnings.append(
                f"metadata/{bundle.name}: missing or stale, devices ask for more files; mend it by repo renew"
            )
    warnings += [f"{path.relative_to(folder)}: left over from a write that failed" for path in files if _is_left(path)]
    return RepositoryReport(manifests, expires, warnings, sum(path.stat().st_size for path in files))


def verify_stream(manifest: Manifest, stream: bytes) -> None:
    """Raise `ReleaseError` unless a stream is the one of the manifest, and `CodecError` if it does not decode."""
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
