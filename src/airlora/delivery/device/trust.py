"""Refresh of a device's trust in a repository with The Update Framework (TUF), over links that break.

States of a refresh, and what changes them:

| state | event | next state |
|---|---|---|
| download the bundle | it is unchanged (HTTP 304) | verify the kept bundle |
| download the bundle | it arrives | verify it |
| download the bundle | it is damaged, or the server has none | verify the single files |
| download the bundle | the transfer fails | end with `NetworkError` |
| verify a bundle | all metadata are valid | end with the manifest; the bundle is kept |
| verify a bundle | something is not valid | verify the single files |
| verify the single files | all metadata are valid | end with the manifest |
| verify the single files | something is not valid | end with `TrustError` |

The bundle is a cache: its files pass the same verification as the single files. Roots that a bundle does not contain,
and manifests, are downloaded one by one in both states of verification.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tuf.api.exceptions import DownloadError, DownloadHTTPError
from tuf.ngclient import FetcherInterface

from airlora.delivery.device.transport import HttpError, RetryPolicy, Transport, fetch_file
from airlora.delivery.repository.bundle import NEWEST_ROOT, bundle_name, unpack_bundle
from airlora.delivery.repository.client import TrustedClient
from airlora.delivery.repository.manifest import Manifest
from airlora.errors import NetworkError, TrustError
from airlora.files import seal, unseal, write_bytes

__all__ = ["TransportFetcher", "fetch_first_root", "refresh_trust"]

log = logging.getLogger(__name__)

KEPT_BUNDLE = "newest.bundle"
"""File of the last bundle and its entity tag, below the folder of the metadata."""

MAX_BUNDLE_BYTES = 256 * 1024


@dataclass
class TransportFetcher(FetcherInterface):
    """TUF fetcher that downloads complete metadata files through a transport.

    Args:
        transport: Transport of the visit.
        retries: Retries of the visit.
        max_bytes: Size after which a download stops.
        base: Address of the repository.
        files: Files that have been downloaded already, by path below the repository.
    """

    transport: Transport
    retries: RetryPolicy
    max_bytes: int = 512 * 1024
    base: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = url.removeprefix(f"{self.base}/")
        if path in self.files:
            yield self.files[path]
            return
        if self._is_future_root(path):
            raise DownloadHTTPError(f"{url}: no newer root in the bundle", 404)
        # A file whose name contains its version or digest never changes, so that a download can be resumed.
        can_resume = url.rpartition("/")[2].partition(".")[0] != "timestamp"
        try:
            content, _ = fetch_file(self.transport, url, self.retries, max_bytes=self.max_bytes, can_resume=can_resume)
        except HttpError as error:
            if error.is_transient:
                raise DownloadError(str(error)) from error
            raise DownloadHTTPError(str(error), error.status) from error
        except NetworkError as error:
            raise DownloadError(str(error)) from error
        yield content

    def _is_future_root(self, path: str) -> bool:
        newest, asked = self.files.get(NEWEST_ROOT, b""), re.fullmatch(r"metadata/([0-9]{1,9})\.root\.json", path)
        return newest.isdigit() and asked is not None and int(asked[1]) > int(newest)


def refresh_trust(
    folder: Path, url: str, transport: Transport, retries: RetryPolicy, *, root: bytes | None, tenant: str | None = None
) -> Manifest | None:
    """Return the newest verified manifest of a repository. None if nothing has been released.

    Args:
        folder: Folder of the trusted metadata.
        url: Address of the repository.
        transport: Transport of the visit.
        retries: Retries of the visit.
        root: Root metadata to trust if the folder holds none. Newer roots follow from it.
        tenant: Tenant whose manifest is returned. None for the manifest without a tenant.

    Raises:
        TrustError: Metadata are not valid, or older than those seen before.
        NetworkError: A download failed.
        StorageError: The folder cannot be written.
    """
    base = url.rstrip("/")
    files, to_keep = _fetch_bundle(folder, f"{base}/metadata/{bundle_name(tenant)}", transport, retries)

    def verified_manifest(files: Mapping[str, bytes]) -> Manifest | None:
        fetcher = TransportFetcher(transport, retries, base=base, files=files)
        client = TrustedClient(folder, f"{base}/metadata/", f"{base}/targets/", fetcher, root=root)
        client.refresh()
        return client.manifest(tenant)

    if files:
        with contextlib.suppress(TrustError):
            manifest = verified_manifest(files)
            if to_keep is not None:
                write_bytes(folder / KEPT_BUNDLE, to_keep)
            return manifest
        log.info("the bundle of metadata is not valid, asking for single files")
    return verified_manifest({})


def fetch_first_root(url: str, transport: Transport, retries: RetryPolicy) -> bytes:
    """Return the first root of a repository, unverified. An attacker on the network can replace it.

    Args:
        url: Address of the repository.
        transport: Transport of the visit.
        retries: Retries of the visit.

    Raises:
        NetworkError: The download failed.
    """
    try:
        fetcher = TransportFetcher(transport, retries)
        return fetcher.download_bytes(f"{url.rstrip('/')}/metadata/1.root.json", fetcher.max_bytes)
    except DownloadError as error:
        raise NetworkError(str(error)) from error


def _fetch_bundle(
    folder: Path, url: str, transport: Transport, retries: RetryPolicy
) -> tuple[dict[str, bytes], bytes | None]:
    """Return the files of the newest bundle, and the content of the file to keep if the bundle is new."""
    etag, bundle = None, b""
    with contextlib.suppress(TrustError, ValueError):
        first, _, bundle = unseal(folder / KEPT_BUNDLE, "bundle", 1, TrustError).partition(b"\n")
        etag = first.decode("ascii") or None
    is_new = True
    try:
        bundle, etag = fetch_file(transport, url, retries, max_bytes=MAX_BUNDLE_BYTES, etag=etag)
    except HttpError as error:
        if error.is_transient:
            raise
        if error.status != 304 or etag is None:
            return {}, None
        is_new = False
    try:
        files = unpack_bundle(bundle)
    except TrustError:
        return {}, None
    if not is_new or etag is None or not (etag.isascii() and etag.isprintable()):
        return files, None
    return files, seal(etag.encode() + b"\n" + bundle, "bundle", 1)
