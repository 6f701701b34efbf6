"""A signed repository: static files that any web server can hand out, trusted through The Update Framework.

```text
REPO/metadata/N.root.json        which keys sign what; itself signed by a threshold of offline keys
REPO/metadata/timestamp.json     short-lived: which snapshot is the newest
REPO/metadata/N.snapshot.json    which versions of the rest belong together
REPO/metadata/N.targets.json     the manifest's digest, and which key signs for which tenant
REPO/metadata/N.<tenant>.json    the digest of a tenant's manifest
REPO/metadata/bundle.z           what a device asks for first, in one file; `<tenant>.bundle.z` for a tenant's
REPO/targets/<sha256>.latest.json                      the manifest of the newest release
REPO/targets/tenants/<tenant>/<sha256>.latest.json     a tenant's
REPO/streams/<digest>.airs       adapters
```

All of a change is signed before any of it is written; files are written to a temporary name and renamed, and
`timestamp.json` last: who reads while it is written sees the release before, or the one after.  What `timestamp.json`
leads to is in force, and nothing else is: files that a write left behind are written over by the next one.  A new root
comes after that: what replaces a key's signatures carries those of the old key too, until the root is there.

Source: The Update Framework's specification 1.0; `tuf` does all of the format.
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
"""How long a role's metadata are valid from their signing; a tenant's as long as `targets`."""

DAYS_FIELD = "x-airlora-days"
_LOCK_S = 10.0
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def verify_tenant(name: str) -> str:
    """Return a tenant's name; raises `ReleaseError` if it is not allowed."""
    if not _TENANT.fullmatch(name) or name in TOP_LEVEL_ROLE_NAMES:
        raise ReleaseError.of("tenant", name, "1 to 63 of a-z, 0-9 and -, and no role's name")
    return name


def target_path(tenant: str | None) -> str:
    """Return the path of the manifest among the targets."""
    return "latest.json" if tenant is None else f"tenants/{verify_tenant(tenant)}/latest.json"


class SignedRepository(Repository):
    """The metadata of a repository, and changes of them.

    Args:
        folder: The repository.
        keys: Its private keys.

    """

    def __init__(self, folder: Path, keys: KeyFolder) -> None:
        self.folder, self.keys = folder, keys
        self.metadata = folder / "metadata"
        self._staged: dict[str, Metadata[Any]] = {}
        self._in_force: tuple[object, dict[str, int]] = (None, {})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time write; raises `ReleaseError` if another one holds on.

        What was signed and not committed at the end is forgotten.
        """
        lock = FileLock(self.folder / ".lock", timeout=_LOCK_S)
        try:
            lock.acquire()
        except Timeout:
            raise ReleaseError(f"{self.folder}: another process is writing to it; try again") from None
        except OSError as error:
            raise StorageError(f"cannot write {self.folder}: {(error.strerror or str(error)).lower()}") from error
        try:
            yield
        finally:
            self._staged.clear()
            lock.release()

    @property
    def tenants(self) -> list[str]:
        """Names of the tenants, in the order of their making."""
        delegations = self.targets().delegations
        return [] if delegations is None or delegations.roles is None else list(delegations.roles)

    def version_of(self, role: str) -> int:
        """Return the version of a role's metadata that was signed last, or else is in force; 0: none."""
        if role in self._staged:
            version: int = self._staged[role].signed.version
            return version
        if role == Root.type:
            return self._newest_root()
        return self.in_force().get(role, 0)

    def in_force(self) -> dict[str, int]:
        """Return which versions `timestamp.json` leads to, by role; raises `ReleaseError` if something is damaged."""
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
        """Return which versions of the other roles belong to a snapshot; raises `ReleaseError` if it is damaged."""
        snapshot = _parse(self._path(Snapshot.type, version)).signed
        return {name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()}

    def open(self, role: str) -> Metadata[Any]:
        """Return a role's newest metadata, or its first, empty and unsigned; raises `ReleaseError` if damaged."""
        if role in self._staged:
            return copy.deepcopy(self._staged[role])
        version = self.version_of(role)
        path = self._path(role, None if role == Timestamp.type else version)
        if not version:
            first = {"root": Root, "snapshot": Snapshot, "timestamp": Timestamp}.get(role, Targets)
            return unsigned(first(expires=now()))
        return _parse(path)

    def close(self, role: str, md: Metadata[Any]) -> None:
        """Sign a role's next version with every key of it that is there; `commit` or `write` puts it on disk.

        Raises:
            ReleaseError: Fewer of its keys are there than its threshold.
        """
        signed = md.signed
        signed.version += 1
        days = signed.unrecognized_fields.setdefault(DAYS_FIELD, DEFAULT_DAYS.get(role, DEFAULT_DAYS["targets"]))
        signed.expires = now() + timedelta(days=days)
        md.signatures.clear()
        # A root is signed by the keys of the one before too: that is what devices follow.
        needed = [self._delegator(role)] if role != Root.type else self._roots(signed)
        # What comes with a new root is signed for devices that have not seen it yet, if the old key is at hand.
        is_with_root = role in TOP_LEVEL_ROLE_NAMES and Root.type in self._staged and self._newest_root() > 0
        welcome = [_parse(self._path(Root.type, self._newest_root())).signed] if is_with_root else []
        for delegator in (*needed, *welcome):
            delegated = delegator.get_delegated_role(role)
            for keyid in delegated.keyids:
                if keyid not in md.signatures and self.keys.has(role, keyid):
                    md.sign(self.keys.signer(role, _public(delegator, keyid, role)), append=True)
            if delegator in welcome:
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
        """What a snapshot says of the metadata of releases."""
        return {f"{role}.json": self._metafile(role) for role in [Targets.type, *self.tenants]}

    @property
    def snapshot_info(self) -> MetaFile:
        """What a timestamp says of the snapshot."""
        return self._metafile(Snapshot.type)

    def commit(self, *, force: bool = False) -> None:
        """Make what was signed since the last time visible: sign a new snapshot and timestamp, and `write`.

        Raises:
            ReleaseError: A key is missing; nothing was written.
            StorageError: A file cannot be written; what was in force is, unless all but a new root was written.
        """
        is_new, _ = self.do_snapshot(force)
        self.do_timestamp(force or is_new)
        self.write()

    def write(self) -> None:
        """Write what was signed, in the order that leaves something valid to see at any time; raises `StorageError`."""
        last = (Snapshot.type, Timestamp.type, Root.type)
        order = [role for role in self._staged if role not in last]
        # A stale bundle would hide what is new; without one devices ask for the files.
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
        """Return what signs for a role with one of its keys; raises `ReleaseError` if that is missing or damaged."""
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
        """Return every signed file in force that a device asks for before a stream, but roots, by its path.

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
        """Return the version of the root on disk, whatever has been signed since; 0: none."""
        versions = [path.name.partition(".")[0] for path in self.metadata.glob("*.root.json")]
        return max((int(version) for version in versions if version.isdigit()), default=0)

    def _path(self, role: str, version: int | None) -> Path:
        return self.metadata / (f"{role}.json" if version is None else f"{version}.{role}.json")


def unsigned(signed: Root | Snapshot | Targets | Timestamp) -> Metadata[Any]:
    """Return the first metadata of a role; `close` makes it version 1."""
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
        raise ReleaseError(f"{role} key {keyid[:12]}: of kind {key.keytype}, which airlora does not sign with")
    return key


def now() -> datetime:
    """Return the time, UTC, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)
