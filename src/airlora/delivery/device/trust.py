"""The Update Framework's client over a weak link."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tuf.api.exceptions import DownloadError, DownloadHTTPError
from tuf.ngclient import FetcherInterface

from airlora.delivery.device.answers import HttpError
from airlora.delivery.device.link import HttpLink, Patience
from airlora.delivery.repository.bundle import NEWEST_ROOT, bundle_name, unpack_bundle
from airlora.delivery.repository.client import TrustedClient
from airlora.delivery.repository.manifest import Manifest
from airlora.errors import NetworkError, TrustError
from airlora.files import seal, unseal, write_bytes

KEPT_BUNDLE = "newest.bundle"
"""Where the last bundle lies, behind its tag: while it is the newest it need not come again."""

MAX_KEPT_BYTES = 256 * 1024

__all__ = ["LinkFetcher", "first_root", "refresh_trust"]


@dataclass
class LinkFetcher(FetcherInterface):
    """Brings metadata, each file whole or not at all, however often the link breaks, within the limits of patience.

    Args:
        link: The server.
        patience: With it.
        max_bytes: Of any file; one that goes on is cut off.
        base: Address of the repository.
        files: Of it, by their path, that have come already.
    """

    link: HttpLink
    patience: Patience
    max_bytes: int = 512 * 1024
    base: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = url.removeprefix(f"{self.base}/")
        if path in self.files:
            yield self.files[path]
            return
        if self._is_no_root_yet(path):
            raise DownloadHTTPError(f"{url}: no newer root in the bundle", 404)
        # A file whose name has its version or digest never changes, and can be gone on with after a break.
        never_changes = url.rpartition("/")[2].partition(".")[0] != "timestamp"
        content = b""
        while True:
            content = content if never_changes else b""
            try:
                for chunk in self.link.get(url, start=len(content)):
                    content += chunk
                    if len(content) > self.max_bytes:
                        break
            except NetworkError as error:
                if isinstance(error, HttpError) and not error.is_passing:
                    raise DownloadHTTPError(str(error), error.status) from error
                try:
                    self.patience.failed(error)
                except NetworkError as given_up:
                    raise DownloadError(str(given_up)) from given_up
                continue
            self.patience.progress()
            yield content
            return

    def _is_no_root_yet(self, path: str) -> bool:
        """Whether a root is asked for that is newer than the newest."""
        newest, asked = self.files.get(NEWEST_ROOT, b""), re.fullmatch(r"metadata/([0-9]{1,9})\.root\.json", path)
        return newest.isdigit() and asked is not None and int(asked[1]) > int(newest)


def refresh_trust(
    folder: Path, url: str, link: HttpLink, patience: Patience, *, root: bytes | None, tenant: str | None = None
) -> Manifest | None:
    """Return the newest manifest of a repository, verified; None: nothing has been released.

    Args:
        folder: Where metadata are kept.
        url: Of the repository.
        link: The server.
        patience: With it.
        root: To trust at first; later ones follow from it.
        tenant: Whose release.

    Raises:
        TrustError: Something is not to be trusted, or a root that is older than the one that is trusted was given.
        NetworkError: It did not come.
        StorageError: It cannot be kept.
    """
    base = url.rstrip("/")
    files, to_keep = _bundle(folder, f"{base}/metadata/{bundle_name(tenant)}", link, patience)

    def refreshed(files: Mapping[str, bytes]) -> Manifest | None:
        fetcher = LinkFetcher(link, patience, base=base, files=files)
        client = TrustedClient(folder, f"{base}/metadata/", f"{base}/targets/", fetcher, root=root)
        client.refresh()
        return client.manifest(tenant)

    if files:
        # What is wrong with a bundle is no more than what is wrong with a cache.
        with contextlib.suppress(TrustError):
            manifest = refreshed(files)
            if to_keep is not None:
                write_bytes(folder / KEPT_BUNDLE, to_keep)
            return manifest
    return refreshed({})


def _bundle(folder: Path, url: str, link: HttpLink, patience: Patience) -> tuple[dict[str, bytes], bytes | None]:
    """Return the files of the repository's bundle, none if it has none, and what to keep of it for the next visit.

    Raises:
        NetworkError: It did not come.
    """
    kept, tag, bundle = folder / KEPT_BUNDLE, None, b""
    try:
        first, _, bundle = unseal(kept, "bundle", 1, TrustError).partition(b"\n")
        tag = first.decode("ascii") or None
    except (TrustError, ValueError):
        pass
    try:
        changed = link.get_if_changed(url, tag, patience, max_bytes=MAX_KEPT_BYTES)
    except HttpError as error:
        if error.is_passing:
            raise
        return {}, None
    try:
        if changed is None:
            return unpack_bundle(bundle), None
        bundle, tag = changed
        files = unpack_bundle(bundle)
    except TrustError:
        return {}, None
    is_known_again = tag is not None and tag.isascii() and tag.isprintable()
    return files, seal((tag or "").encode() + b"\n" + bundle, "bundle", 1) if is_known_again else None


def first_root(url: str, link: HttpLink, patience: Patience) -> bytes:
    """Return the repository's first root, taken on trust: who is in between may give another one.

    Raises:
        NetworkError: It did not come.
    """
    try:
        fetcher = LinkFetcher(link, patience)
        return fetcher.download_bytes(f"{url.rstrip('/')}/metadata/1.root.json", fetcher.max_bytes)
    except DownloadError as error:
        raise NetworkError(str(error)) from error
