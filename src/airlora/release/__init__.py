"""Releases: a progressive stream and its signed manifest, in a repository of static files.

`create_repository` makes the repository and its keys, `publish_stream` adds a release, `verify_repository` looks at it
as a device would; `TrustedClient` is that device's view.  Trust is The Update Framework's, by `tuf`.
"""

from airlora.release.bundle import NEWEST_ROOT, bundle_name, unpack_bundle
from airlora.release.carousel import Carousel, fountain, open_carousel
from airlora.release.client import TrustedClient, is_initialised, newest_trusted_root
from airlora.release.create import create_repository, default_keys, open_repository
from airlora.release.keys import PASSPHRASE_VARIABLE, KeyFolder
from airlora.release.manifest import Cut, Manifest, StreamEntry
from airlora.release.packets import MAX_OBJECT_BYTES, ObjectId, open_packet, packet_keys
from airlora.release.publish import collect_garbage, current_manifest, publish_stream
from airlora.release.repository import (
    DEFAULT_DAYS,
    SignedRepository,
    target_path,
    verify_tenant,
)
from airlora.release.roles import add_tenant, renew, rotate_key
from airlora.release.verify import FolderFetcher, RepositoryReport, verify_repository, verify_stream

__all__ = [
    "DEFAULT_DAYS",
    "MAX_OBJECT_BYTES",
    "NEWEST_ROOT",
    "PASSPHRASE_VARIABLE",
    "Carousel",
    "Cut",
    "FolderFetcher",
    "KeyFolder",
    "Manifest",
    "ObjectId",
    "RepositoryReport",
    "SignedRepository",
    "StreamEntry",
    "TrustedClient",
    "add_tenant",
    "bundle_name",
    "collect_garbage",
    "create_repository",
    "current_manifest",
    "default_keys",
    "fountain",
    "is_initialised",
    "newest_trusted_root",
    "open_carousel",
    "open_packet",
    "open_repository",
    "packet_keys",
    "publish_stream",
    "renew",
    "rotate_key",
    "target_path",
    "unpack_bundle",
    "verify_repository",
    "verify_stream",
    "verify_tenant",
]
