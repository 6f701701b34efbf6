"""The Update Framework's client over a weak link."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuf.api.exceptions import DownloadError, DownloadHTTPError
from tuf.ngclient import FetcherInterface

from airlora.edge.link import HttpError, HttpLink, Patience
from airlora.errors import NetworkError
from airlora.release import Manifest, TrustedClient

__all__ = ["LinkFetcher", "first_root", "refresh_trust"]


@dataclass
class LinkFetcher(FetcherInterface):
    """Brings metadata, each file whole or not at all, however often the link breaks, within the limits of patience.

    Args:
        link: The server.
        patience: With it.
        max_bytes: Of any file; one that goes on is cut off.
    """

    link: HttpLink
    patience: Patience
    max_bytes: int = 512 * 1024

    def _fetch(self, url: str) -> Iterator[bytes]:
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
    client = TrustedClient(folder, f"{base}/metadata/", f"{base}/targets/", LinkFetcher(link, patience), root=root)
    client.refresh()
    return client.manifest(tenant)


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
