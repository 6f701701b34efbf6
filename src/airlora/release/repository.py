"""A signed repository: static files that any web server can hand out, trusted through The Update Framework.

```text
REPO/metadata/N.root.json        which keys sign what; itself signed by a threshold of offline keys
REPO/metadata/timestamp.json     short-lived: which snapshot is the newest
REPO/metadata/N.snapshot.json    which versions of the rest belong together
REPO/metadata/N.targets.json     the manifest's digest, and which key signs for which tenant
REPO/metadata/N.<tenant>.json    the digest of a tenant's manifest
REPO/targets/<sha256>.latest.json                      the manifest of the newest release
REPO/targets/tenants/<tenant>/<sha256>.latest.json     a tenant's
REPO/streams/<digest>.airs       adapters
```

Files are written to a temporary name and renamed, and `timestamp.json` last: who reads while it is written sees the
release before, or the one after.

Source: The Update Framework's specification 1.0; `tuf` does all of the format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout
from securesystemslib.signer import SSlibKey
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

from airlora.errors import ReleaseError
from airlora.files import make_folder, read_bytes, write_bytes
from airlora.release.keys import KeyFolder

__all__ = [
    "DEFAULT_DAYS",
    "SignedRepository",
    "create_repository",
    "default_keys",
    "open_repository",
    "target_path",
    "verify_tenant",
]

DEFAULT_DAYS: Final[Mapping[str, int]] = {"root": 365, "targets": 180, "snapshot": 30, "timestamp": 7}
"""How long a role's metadata are valid from their signing; a tenant's as long as `targets`."""

_DAYS_FIELD = "x-airlora-days"
_LOCK_S = 10.0
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def default_keys(repository: Path) -> Path:
    """Return where a repository's keys lie if nothing else is said: the folder `<REPO>-keys` beside it."""
    whole = repository.resolve()
    return whole.with_name(f"{whole.name}-keys")


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

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time write; raises `ReleaseError` if another one holds on."""
        lock = FileLock(make_folder(self.keys.folder) / ".lock", timeout=_LOCK_S)
        try:
            lock.acquire()
        except Timeout:
            raise ReleaseError(f"{self.folder}: another process is writing to it; try again") from None
        try:
            yield
        finally:
            lock.release()

    @property
    def tenants(self) -> list[str]:
        """Names of the tenants, in the order of their making."""
        delegations = self.targets().delegations
        return [] if delegations is None or delegations.roles is None else list(delegations.roles)

    def version_of(self, role: str) -> int:
        """Return the newest version of a role's metadata that lies there; 0: none."""
        if role == Timestamp.type:
            return self.timestamp().version if (self.metadata / "timestamp.json").exists() else 0
        versions = [path.name.partition(".")[0] for path in self.metadata.glob(f"*.{role}.json")]
        return max((int(version) for version in versions if version.isdigit()), default=0)

    def open(self, role: str) -> Metadata[Any]:
        """Return a role's newest metadata, or its first, empty and unsigned; raises `ReleaseError` if damaged."""
        path = self._path(role, None if role == Timestamp.type else self.version_of(role))
        if not path.exists():
            first = {"root": Root, "snapshot": Snapshot, "timestamp": Timestamp}.get(role, Targets)
            return _unsigned(first(expires=_now()))
        return _parse(path)

    def close(self, role: str, md: Metadata[Any]) -> None:
        """Sign a role's next version with every key of it that is there, and write it.

        Raises:
            ReleaseError: Fewer of its keys are there than its threshold.
            StorageError: It cannot be written.
        """
        signed = md.signed
        signed.version += 1
        days = signed.unrecognized_fields.setdefault(_DAYS_FIELD, DEFAULT_DAYS.get(role, DEFAULT_DAYS["targets"]))
        signed.expires = _now() + timedelta(days=days)
        md.signatures.clear()
        # A root is signed by the keys of the one before too: that is what devices follow.
        delegators = [self._delegator(role)] if role != Root.type else self._roots(signed)
        for delegator in delegators:
            delegated = delegator.get_delegated_role(role)
            for keyid in delegated.keyids:
                if keyid not in md.signatures and self.keys.has(role, keyid):
                    md.sign(self.keys.signer(role, _public(delegator, keyid, role)), append=True)
            try:
                delegator.verify_delegate(role, md.signed_bytes, md.signatures)
            except UnsignedMetadataError:
                found = sum(self.keys.has(role, keyid) for keyid in delegated.keyids)
                raise ReleaseError.of(
                    f"{role} keys in {self.keys.folder}", found, f"at least {delegated.threshold}, its threshold"
                ) from None
        self._write(role, md)

    @property
    def targets_infos(self) -> dict[str, MetaFile]:
        """What a snapshot says of the metadata of releases."""
        return {f"{role}.json": self._metafile(role) for role in [Targets.type, *self.tenants]}

    @property
    def snapshot_info(self) -> MetaFile:
        """What a timestamp says of the snapshot."""
        return self._metafile(Snapshot.type)

    def commit(self, *, force: bool = False) -> None:
        """Make what was signed since the last time visible: a new snapshot, and last a new timestamp."""
        is_new, _ = self.do_snapshot(force)
        self.do_timestamp(force or is_new)

    def _delegator(self, role: str) -> Root | Targets:
        return self.root() if role in TOP_LEVEL_ROLE_NAMES else self.targets()

    def _roots(self, new: Root) -> list[Root | Targets]:
        return [new] if new.version == 1 else [new, self.root()]

    def _metafile(self, role: str) -> MetaFile:
        version = self.version_of(role)
        return MetaFile(version, length=self._path(role, version).stat().st_size)

    def _path(self, role: str, version: int | None) -> Path:
        return self.metadata / (f"{role}.json" if version is None else f"{version}.{role}.json")

    def _write(self, role: str, md: Metadata[Any]) -> None:
        path = self._path(role, None if role == Timestamp.type else md.signed.version)
        write_bytes(path, md.to_bytes(JSONSerializer(compact=True)))


def open_repository(folder: Path, keys: KeyFolder) -> SignedRepository:
    """Return the repository in a folder; raises `ReleaseError` if there is none."""
    if not (folder / "metadata" / "1.root.json").is_file():
        raise ReleaseError(f"{folder}: no repository (metadata/1.root.json is missing); make one by repo init")
    return SignedRepository(folder, keys)


def create_repository(
    folder: Path,
    keys: KeyFolder,
    *,
    num_root_keys: int = 3,
    root_threshold: int = 2,
    days: Mapping[str, int] | None = None,
) -> SignedRepository:
    """Make an empty repository with new keys, and return it.

    Args:
        folder: Where; it must be empty or not exist.
        keys: Where its keys go; it must hold none.
        num_root_keys: How many root keys.
        root_threshold: How many of them sign a change of keys, 1 to `num_root_keys`.
        days: Validity by role, see `DEFAULT_DAYS`.

    Raises:
        ReleaseError: Something is in the way, or a number is not allowed.
        StorageError: A file cannot be written.
    """
    valid = {**DEFAULT_DAYS, **(days or {})}
    for role, value in valid.items():
        if role not in DEFAULT_DAYS or not 1 <= value <= 36_500:
            raise ReleaseError.of(f"days of {role}", value, "1 to 36500, of root, targets, snapshot and timestamp")
    if not 1 <= root_threshold <= num_root_keys <= 16:
        raise ReleaseError.of(
            "root keys and threshold", (num_root_keys, root_threshold), "1 to 16, and a threshold up to that"
        )
    for place, kind in ((folder, "repository"), (keys.folder, "keys")):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise ReleaseError.of(kind, str(place), "a folder that is empty or does not exist")
    for part in ("metadata", "targets", "streams"):
        make_folder(folder / part)
    root = Root(expires=_now(), consistent_snapshot=True)
    for role, count in (("root", num_root_keys), ("targets", 1), ("snapshot", 1), ("timestamp", 1)):
        for _ in range(count):
            root.add_key(keys.create(role), role)
    root.roles["root"].threshold = root_threshold
    root.unrecognized_fields[_DAYS_FIELD] = valid["root"]
    repository = SignedRepository(folder, keys)
    repository.close("root", _unsigned(root))
    for role in ("targets", "snapshot", "timestamp"):
        with repository.edit(role) as signed:
            signed.unrecognized_fields[_DAYS_FIELD] = valid[role]
            if isinstance(signed, Snapshot):
                signed.meta = repository.targets_infos
            if isinstance(signed, Timestamp):
                signed.snapshot_meta = repository.snapshot_info
    return repository


def _unsigned(signed: Root | Snapshot | Targets | Timestamp) -> Metadata[Any]:
    """Return the first metadata of a role; `close` makes it version 1."""
    signed.version = 0
    return Metadata(signed)


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


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
