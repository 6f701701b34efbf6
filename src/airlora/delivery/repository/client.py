"""What a device believes of a repository: The Update Framework's client, with airlora's errors and manifests."""

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
    # Every visit follows the roots from the first one on, from disk where they are there.
    max_root_rotations=4096,
    max_delegations=4,
    root_max_length=64 * 1024,
    timestamp_max_length=8 * 1024,
    snapshot_max_length=256 * 1024,
    targets_max_length=256 * 1024,
)
"""Far above what `airlora publish` writes, far below what would hurt a device."""


FIRST_ROOT = "first.root"


class TrustedClient:
    """Follows a repository from a root that is trusted to the newest manifest; made anew for every refresh.

    Args:
        folder: Where the metadata are kept between refreshes; a version once seen is never gone behind.
        metadata_url: Of the folder `metadata`.
        targets_url: Of the folder `targets`.
        fetcher: What brings files.
        root: The root to trust where none is kept yet, or is damaged; None: there is one.

    Raises:
        TrustError: There is no root, or it is not signed by its own keys.
        StorageError: The folder cannot be written.
    """

    def __init__(
        self, folder: Path, metadata_url: str, targets_url: str, fetcher: FetcherInterface, *, root: bytes | None = None
    ) -> None:
        self.folder = make_folder(folder)
        # Later roots follow from the first one every time anew, so that a damaged one among them is fetched again.
        root = _kept_root(folder) or root
        if root is None and not is_initialised(folder):
            raise TrustError(f"{folder}: no root of trust yet; give the repository's 1.root.json by --root")
        with _told():
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
        """Bring root, timestamp, snapshot and targets up to date, each verified, and put them on disk for good.

        Raises:
            TrustError: Something is not signed by a threshold of its keys, expired, older than what was seen, or of
                another length or digest than is signed.
            NetworkError: Something did not come.
            StorageError: Something could not be written.
        """
        with _told():
            self._updater.refresh()
        _sync(self.folder)

    def manifest(self, tenant: str | None = None) -> Manifest | None:
        """Return the newest manifest; None: nothing has been released. Raises as `refresh` does."""
        path = target_path(tenant)
        with _told():
            target = self._updater.get_targetinfo(path)
            if target is None:
                return None
            if target.length > MAX_MANIFEST_BYTES:
                raise TrustError.of("bytes of the manifest", target.length, f"at most {MAX_MANIFEST_BYTES}")
            held = self._updater.find_cached_target(target) or self._updater.download_target(target)
            content = Path(held).read_bytes()
            # The file may have changed since it was verified.
            target.verify_length_and_hashes(content)
        _sync(self.folder)
        return Manifest.from_bytes(content, error=TrustError)

    def download(self, name: str, folder: Path) -> Path:
        """Return the file of a target of any name, verified, in a folder; raises as `refresh` does."""
        with _told():
            target = self._updater.get_targetinfo(name)
            if target is None:
                raise TrustError(f"target {name}: nobody signed for it")
            file = make_folder(folder) / quote(name, "")
            return Path(
                self._updater.find_cached_target(target, str(file)) or self._updater.download_target(target, str(file))
            )


def is_initialised(folder: Path) -> bool:
    """Whether a folder holds a root of trust."""
    return _kept_root(folder) is not None or (folder / "root.json").exists()


def newest_trusted_root(folder: Path) -> bytes | None:
    """Return the newest root on disk that follows from the first one; None: there is none, or it is damaged."""
    first = _kept_root(folder)
    if first is None:
        # What a refresh would begin with.
        with contextlib.suppress(OSError, RepositoryError):
            first = (folder / "root.json").read_bytes()
            _follow(first, first)
            return first
        return None
    newest = first
    # A damaged root ends it: what is newer is believed again once it has come again.
    with contextlib.suppress(OSError, RepositoryError):
        version = _follow(first, first)
        while True:
            following = (folder / "root_history" / f"{version + 1}.root.json").read_bytes()
            version = _follow(newest, following)
            newest = following
    return newest


def _follow(root: bytes, following: bytes) -> int:
    """Return the version of a root that is signed by the one before and by itself; raises `RepositoryError`."""
    before, after = (Metadata[Root].from_bytes(content) for content in (root, following))
    for signed in (before.signed, after.signed):
        signed.verify_delegate(Root.type, after.signed_bytes, after.signatures)
    return after.signed.version


def _kept_root(folder: Path) -> bytes | None:
    """Return the root that trust began with; None if it is not there, or damaged."""
    try:
        return unseal(folder / FIRST_ROOT, "root", 1, TrustError)
    except TrustError:
        return None


@contextmanager
def _told() -> Iterator[None]:
    """Turn the errors of The Update Framework into airlora's."""
    try:
        yield
    except ExpiredMetadataError as error:
        raise TrustError(f"repository: {error}; is the clock right, and has it been renewed?") from error
    except DownloadLengthMismatchError as error:
        raise TrustError(f"repository: {error}") from error
    except DownloadError as error:
        raise NetworkError(f"repository: {error}") from error
    except (RepositoryError, LengthOrHashMismatchError) as error:
        raise TrustError(f"repository: {error}") from error
    except OSError as error:
        raise StorageError(f"metadata: {error}") from error


def _sync(folder: Path) -> None:
    """Put what was written on disk: a power cut must not take back which versions were seen."""
    with _told():
        paths = [*folder.rglob("*.json"), folder / "root_history", folder]
    sync_paths(paths)
