"""Trust of a device in a repository: the client of The Update Framework with airlora's errors and manifests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from tuf.api.exceptions import (
    DownloadError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
)
from tuf.api.metadata import Metadata, Root
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from airlora.delivery.repository.manifest import MAX_MANIFEST_BYTES, Manifest
from airlora.delivery.repository.repository import target_path
from airlora.errors import NetworkError, StorageError, TrustError
from airlora.files import make_folder, seal, sync_paths, unseal, write_bytes

__all__ = ["CLIENT_LIMITS", "TrustedClient", "is_initialised", "newest_trusted_root"]

CLIENT_LIMITS = UpdaterConfig(
    # Every refresh follows the chain of roots from the first one. Roots that are on disk are not fetched again.
    max_root_rotations=4096,
    max_delegations=4,
    root_max_length=64 * 1024,
    timestamp_max_length=8 * 1024,
    snapshot_max_length=256 * 1024,
    targets_max_length=256 * 1024,
)
"""Limits on metadata sizes: far above what `airlora publish` writes, and small enough for a device's memory."""

FIRST_ROOT = "first.root"


class TrustedClient:
    """Verifies a repository from a trusted root to the newest manifest.  Create a new client for each refresh.

    Args:
        folder: Folder of the metadata between refreshes.  A version older than one seen before is refused.
        metadata_url: URL of the repository's folder `metadata`.
        targets_url: URL of the repository's folder `targets`.
        fetcher: Fetcher of files by URL.
        root: Trusted root metadata for a folder without an intact root.  None requires a root in `folder`.

    Raises:
        TrustError: There is no root, or it is not signed by its own keys.
        StorageError: The folder cannot be written.
    """

    def __init__(
        self, folder: Path, metadata_url: str, targets_url: str, fetcher: FetcherInterface, *, root: bytes | None = None
    ) -> None:
        self.folder = make_folder(folder)
        # Each refresh verifies the chain of roots from the first one, so that a damaged root is fetched again.
        root = _kept_root(folder) or root
        if root is None and not is_initialised(folder):
            raise TrustError(
                f"No trusted root metadata in {folder}: pass --root 1.root.json from the repository's operator"
            )
        with _translated_errors():
            self._updater = Updater(
                str(folder),
                metadata_url,
                target_dir=str(make_folder(folder / "manifests")),
                target_base_url=targets_url,
                fetcher=fetcher,
                config=CLIENT_LIMITS,
                bootstrap=root,
            )
        if root is not None and _kept_root(folder) is None:
            write_bytes(folder / FIRST_ROOT, seal(root, "root", 1))

    def refresh(self) -> None:
        """Fetch and verify the newest root, timestamp, snapshot and targets, and write them to disk durably.

        Raises:
            TrustError: A file is not signed by a threshold of its keys, has expired, is older than a version seen
                before, or differs in length or digest from what is signed.
            NetworkError: A file cannot be fetched.
            StorageError: A file cannot be written.
        """
        with _translated_errors():
            self._updater.refresh()
        _sync(self.folder)

    def manifest(self, tenant: str | None = None) -> Manifest | None:
        """Return the newest manifest, or None before the first release; raises the errors of `refresh`."""
        path = target_path(tenant)
        with _translated_errors():
            target = self._updater.get_targetinfo(path)
            if target is None:
                return None
            if target.length > MAX_MANIFEST_BYTES:
                raise TrustError.of("bytes of the manifest", target.length, f"at most {MAX_MANIFEST_BYTES}")
            held = self._updater.find_cached_target(target) or self._updater.download_target(target)
            content = Path(held).read_bytes()
            # A cached file may have changed on disk since it was verified.
            target.verify_length_and_hashes(content)
        _sync(self.folder)
        return Manifest.from_bytes(content, error=TrustError)

    def download(self, name: str, folder: Path) -> Path:
        """Fetch a target by name into a folder, verify it, and return its path; raises the errors of `refresh`."""
        with _translated_errors():
            target = self._updater.get_targetinfo(name)
            if target is None:
                raise TrustError(f"target {name}: not signed by any role of the repository")
            file = make_folder(folder) / quote(name, "")
            return Path(
                self._updater.find_cached_target(target, str(file)) or self._updater.download_target(target, str(file))
            )


def is_initialised(folder: Path) -> bool:
    """Return whether a folder holds trusted root metadata."""
    return _kept_root(folder) is not None or (folder / "root.json").exists()


def newest_trusted_root(folder: Path) -> bytes | None:
    """Return the newest root on disk that the first root leads to, or None if the first root is missing or damaged."""
    first = _kept_root(folder)
    if first is None:
        # A folder written by another TUF client has only `root.json`, which a refresh would start from.
        with contextlib.suppress(OSError, RepositoryError):
            first = (folder / "root.json").read_bytes()
            _follow(first, first)
            return first
        return None
    newest = first
    # A damaged root ends the chain. A refresh fetches it and its successors again.
    with contextlib.suppress(OSError, RepositoryError):
        version = _follow(first, first)
        while True:
            following = (folder / "root_history" / f"{version + 1}.root.json").read_bytes()
            version = _follow(newest, following)
            newest = following
    return newest


def _follow(root: bytes, following: bytes) -> int:
    """Return the version of `following`; raises `RepositoryError` unless it and `root` have signed it."""
    before, after = (Metadata[Root].from_bytes(content) for content in (root, following))
    for signed in (before.signed, after.signed):
        signed.verify_delegate(Root.type, after.signed_bytes, after.signatures)
    return after.signed.version


def _kept_root(folder: Path) -> bytes | None:
    """Return the first trusted root, or None if its file is missing or damaged."""
    try:
        return unseal(folder / FIRST_ROOT, "root", 1, TrustError)
    except TrustError:
        return None


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except ExpiredMetadataError as error:
        raise TrustError(
            f"repository: {error}: check this machine's clock, or sign the metadata again by `airlora repo renew`"
        ) from error
    except DownloadLengthMismatchError as error:
        raise TrustError(f"repository: {error}") from error
    except DownloadError as error:
        raise NetworkError(f"repository: {error}") from error
    except (RepositoryError, LengthOrHashMismatchError) as error:
        raise TrustError(f"repository: {error}") from error
    except OSError as error:
        raise StorageError(f"metadata: {error}") from error


def _sync(folder: Path) -> None:
    """Flush the metadata to disk: a power failure must not make the client forget which versions it has seen."""
    with _translated_errors():
        paths = [*folder.rglob("*.json"), folder / "root_history", folder]
    sync_paths(paths)
