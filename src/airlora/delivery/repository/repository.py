"""A signed repository: static files for any web server, trusted through The Update Framework (TUF).

```text
REPO/metadata/N.root.json        keys of all roles; signed by a threshold of offline keys
REPO/metadata/timestamp.json     version of the newest snapshot; expires after days
REPO/metadata/N.snapshot.json    versions of the other metadata that belong together
REPO/metadata/N.targets.json     digest of the manifest, and the key of each tenant
REPO/metadata/N.<tenant>.json    digest of a tenant's manifest
REPO/metadata/bundle.z           bundle of the metadata above; `<tenant>.bundle.z` for a tenant
REPO/targets/<sha256>.latest.json                      manifest of the newest release
REPO/targets/tenants/<tenant>/<sha256>.latest.json     manifest of a tenant's newest release
REPO/streams/<digest>.airs       streams
```

A change passes through three states:

1. Staged: `edit` and `close` sign new versions in memory.  Nothing is on disk.
2. Written: `write` writes every staged file but `timestamp.json` under a new name.  Devices still see the old release.
3. In force: `write` renames `timestamp.json` into place.  Devices see the new release.

Only the files that `timestamp.json` leads to are in force.  The next `write` overwrites files of an interrupted one.  A
new root is written after `timestamp.json`.  Until then, metadata signed by a new key carry a signature of the old key
too.

Source: specification 1.0 of The Update Framework; the library `tuf` implements the format.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import (
    TOP_LEVEL_ROLE_NAMES,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer
from tuf.repository import Repository

from airlora.delivery.repository.bundle import NEWEST_ROOT, bundle_name, pack_bundle
from airlora.delivery.repository.keys import KeyFolder
from airlora.errors import ReleaseError, StorageError
from airlora.files import read_bytes, write_bytes

__all__ = [
    "DAYS_FIELD",
    "DEFAULT_DAYS",
    "SignedRepository",
    "now",
    "target_path",
    "unsigned",
    "verify_tenant",
]

DEFAULT_DAYS: Final[Mapping[str, int]] = {"root": 365, "targets": 180, "snapshot": 30, "timestamp": 7}
"""Validity of each role's metadata in days.  Metadata of a tenant are valid as long as those of `targets`."""

DAYS_FIELD = "x-airlora-days"
_LOCK_S = 10.0
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def verify_tenant(name: str) -> str:
    """Return `name`; raises `ReleaseError` if it is not allowed as the name of a tenant."""
    if not _TENANT.fullmatch(name) or name in TOP_LEVEL_ROLE_NAMES:
        raise ReleaseError.of(
            "tenant", name, "1 to 63 of the characters a-z, 0-9 and -, other than root, targets, snapshot or timestamp"
        )
    return name


def target_path(tenant: str | None) -> str:
    """Return the TUF target path of the newest manifest, of a tenant or (None) of the repository."""
    return "latest.json" if tenant is None else f"tenants/{verify_tenant(tenant)}/latest.json"


class SignedRepository(Repository):
    """Reads and changes the metadata of a repository.

    Args:
        folder: Folder of the repository.
        keys: Private keys of the repository.
    """

    def __init__(self, folder: Path, keys: KeyFolder) -> None:
        self.folder, self.keys = folder, keys
        self.metadata = folder / "metadata"
        self._staged: dict[str, Metadata[Any]] = {}
        self._in_force: tuple[object, dict[str, int]] = (None, {})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the repository's lock; staged metadata that were not written are dropped at the end.

        Raises:
            ReleaseError: Another process holds the lock.
            StorageError: The lock file cannot be written.
        """
        lock = FileLock(self.folder / ".lock", timeout=_LOCK_S)
        try:
            lock.acquire()
        except Timeout:
            raise ReleaseError(f"{self.folder}: locked by another process; try again") from None
        except OSError as error:
            raise StorageError(f"cannot write {self.folder}: {(error.strerror or str(error)).lower()}") from error
        try:
            yield
        finally:
            self._staged.clear()
            lock.release()

    @property
    def tenants(self) -> list[str]:
        """Names of the tenants, in the order in which they were added."""
        delegations = self.targets().delegations
        return [] if delegations is None or delegations.roles is None else list(delegations.roles)

    def version_of(self, role: str) -> int:
        """Return the staged version of a role's metadata, or else the version in force, or 0 if there is none."""
        if role in self._staged:
            version: int = self._staged[role].signed.version
            return version
        if role == Root.type:
            return self._newest_root()
        return self.in_force().get(role, 0)

    def in_force(self) -> dict[str, int]:
        """Return the version in force of each role; raises `ReleaseError` if metadata are damaged."""
        path = self.metadata / "timestamp.json"
        try:
            status = path.stat()
        except FileNotFoundError:
            return {}
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if self._in_force[0] != stamp:
            timestamp = _parse(path).signed
            snapshot_version = timestamp.snapshot_meta.version
            found = {Timestamp.type: timestamp.version, Snapshot.type: snapshot_version}
            self._in_force = stamp, found | self.named_by_snapshot(snapshot_version)
        return self._in_force[1]

    def named_by_snapshot(self, version: int) -> dict[str, int]:
        """Return the version of each role that a snapshot names; raises `ReleaseError` if the snapshot is damaged."""
        snapshot = _parse(self._path(Snapshot.type, version)).signed
        return {name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()}

    def open(self, role: str) -> Metadata[Any]:
        """Return a role's newest metadata; empty and unsigned ones for a new role; raises `ReleaseError` if damaged."""
        if role in self._staged:
            return copy.deepcopy(self._staged[role])
        version = self.version_of(role)
        path = self._path(role, None if role == Timestamp.type else version)
        if not version:
            first = {"root": Root, "snapshot": Snapshot, "timestamp": Timestamp}.get(role, Targets)
            return unsigned(first(expires=now()))
        return _parse(path)

    def close(self, role: str, md: Metadata[Any]) -> None:
        """Sign the next version of a role's metadata with all its keys in the key folder, and stage it.

        Raises:
            ReleaseError: The key folder holds fewer keys of the role than its threshold.
        """
        signed = md.signed
        signed.version += 1
        days = signed.unrecognized_fields.setdefault(DAYS_FIELD, DEFAULT_DAYS.get(role, DEFAULT_DAYS["targets"]))
        signed.expires = now() + timedelta(days=days)
        md.signatures.clear()
        # A new root is signed by the keys of the previous root too. Devices verify this chain.
        required = [self._delegator(role)] if role != Root.type else self._roots(signed)
        # Metadata staged with a new root are signed by the old keys too, where they are at hand, for devices that have
        # not fetched the new root yet.
        is_with_root = role in TOP_LEVEL_ROLE_NAMES and Root.type in self._staged and self._newest_root() > 0
        optional = [_parse(self._path(Root.type, self._newest_root())).signed] if is_with_root else []
        for delegator in (*required, *optional):
            delegated = delegator.get_delegated_role(role)
            for keyid in delegated.keyids:
                if keyid not in md.signatures and self.keys.has(role, keyid):
                    md.sign(self.keys.signer(role, _public(delegator, keyid, role)), append=True)
            if delegator in optional:
                continue
            try:
                delegator.verify_delegate(role, md.signed_bytes, md.signatures)
            except UnsignedMetadataError:
                found = sum(self.keys.has(role, keyid) for keyid in delegated.keyids)
                raise ReleaseError.of(
                    f"{role} keys in {self.keys.folder}", found, f"at least {delegated.threshold}, its threshold"
                ) from None
        self._staged[role] = md

    @property
    def targets_infos(self) -> dict[str, MetaFile]:
        """Version and length of the metadata of `targets` and of each tenant by file name, as a snapshot lists them."""
        return {f"{role}.json": self._metafile(role) for role in [Targets.type, *self.tenants]}

    @property
    def snapshot_info(self) -> MetaFile:
        """Version and length of the snapshot, as a timestamp lists them."""
        return self._metafile(Snapshot.type)

    def commit(self, *, force: bool = False) -> None:
        """Put staged metadata in force: sign a new snapshot and timestamp, and `write`.

        Args:
            force: Sign a new snapshot and timestamp even if no other metadata are staged.

        Raises:
            ReleaseError: A key is missing.  Nothing was written.
            StorageError: A file cannot be written.  The old metadata stay in force, unless only a new root is missing.
        """
        is_new, _ = self.do_snapshot(force)
        self.do_timestamp(force or is_new)
        self.write()

    def write(self) -> None:
        """Write staged metadata: `timestamp.json` after what it leads to, a new root last; raises `StorageError`."""
        last = (Snapshot.type, Timestamp.type, Root.type)
        order = [role for role in self._staged if role not in last]
        # A stale bundle would hide the new release. Without a bundle, devices fetch the files one by one.
        for path in self.metadata.glob("*bundle.z"):
            path.unlink(missing_ok=True)
        for role in (*order, *(role for role in last if role in self._staged)):
            md = self._staged[role]
            path = self._path(role, None if role == Timestamp.type else md.signed.version)
            write_bytes(path, _serialised(md))
        self._staged.clear()
        for tenant in [None, *self.tenants]:
            files = self.newest_files(tenant) | {NEWEST_ROOT: str(self._newest_root()).encode()}
            write_bytes(self.metadata / bundle_name(tenant), pack_bundle(files)[0])

    def signer(self, role: str, keyid: str) -> CryptoSigner:
        """Return the signer of one of a role's keys; raises `ReleaseError` if the key is missing or damaged."""
        return self.keys.signer(role, _public(self._delegator(role), keyid, role))

    def _delegator(self, role: str) -> Root | Targets:
        return self.root() if role in TOP_LEVEL_ROLE_NAMES else self.targets()

    def _roots(self, new: Root) -> list[Root | Targets]:
        return [new] if new.version == 1 else [new, self.root()]

    def _metafile(self, role: str) -> MetaFile:
        version = self.version_of(role)
        if role in self._staged:
            return MetaFile(version, length=len(_serialised(self._staged[role])))
        return MetaFile(version, length=len(read_bytes(self._path(role, version), "metadata", ReleaseError)))

    def newest_files(self, tenant: str | None) -> dict[str, bytes]:
        """Return the signed files in force that a device needs before a stream, except roots.

        Args:
            tenant: Name of the device's tenant, or None.

        Returns:
            Content of each file by its path below the repository.

        Raises:
            ReleaseError: A file is missing.
        """
        roles = ["snapshot", "targets", *([] if tenant is None else [tenant])]
        paths = [self.metadata / "timestamp.json", *(self._path(role, self.version_of(role)) for role in roles)]
        path = target_path(tenant)
        target = self.targets(tenant or "targets").targets.get(path)
        if target is not None:
            folder, slash, name = path.rpartition("/")
            paths.append(self.folder / f"targets/{folder}{slash}{target.hashes['sha256']}.{name}")
        return {file.relative_to(self.folder).as_posix(): read_bytes(file, "metadata", ReleaseError) for file in paths}

    def _newest_root(self) -> int:
        """Return the version of the newest root on disk, or 0 if there is none; staged roots do not count."""
        versions = [path.name.partition(".")[0] for path in self.metadata.glob("*.root.json")]
        return max((int(version) for version in versions if version.isdigit()), default=0)

    def _path(self, role: str, version: int | None) -> Path:
        return self.metadata / (f"{role}.json" if version is None else f"{version}.{role}.json")


def unsigned(signed: Root | Snapshot | Targets | Timestamp) -> Metadata[Any]:
    """Return unsigned metadata of version 0; `close` signs them as version 1."""
    signed.version = 0
    return Metadata(signed)


def _serialised(md: Metadata[Any]) -> bytes:
    return md.to_bytes(JSONSerializer(compact=True))


def _parse(path: Path) -> Metadata[Any]:
    try:
        return Metadata.from_bytes(read_bytes(path, "metadata", ReleaseError))
    except RepositoryError as error:
        raise ReleaseError(f"metadata {path}: damaged ({error})") from error


def _public(delegator: Root | Targets, keyid: str, role: str) -> SSlibKey:
    key = delegator.get_key(keyid)
    if not isinstance(key, SSlibKey):
        raise ReleaseError(f"{role} key {keyid[:12]}: key type {key.keytype} is not supported; use Ed25519")
    return key


def now() -> datetime:
    """Return the current time, UTC, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)
