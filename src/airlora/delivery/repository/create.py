"""Creating a repository with its keys, and opening one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tuf.api.metadata import Root, Snapshot, Timestamp

from airlora.delivery.repository.keys import KeyFolder
from airlora.delivery.repository.repository import DAYS_FIELD, DEFAULT_DAYS, SignedRepository, now, unsigned
from airlora.errors import ReleaseError
from airlora.files import make_folder

__all__ = ["create_repository", "default_keys", "open_repository"]


def default_keys(repository: Path) -> Path:
    """Return the default folder of a repository's keys: `<REPO>-keys` beside the repository."""
    whole = repository.resolve()
    return whole.with_name(f"{whole.name}-keys")


def open_repository(folder: Path, keys: KeyFolder) -> SignedRepository:
    """Return the repository in a folder; raises `ReleaseError` if there is none."""
    if not (folder / "metadata" / "1.root.json").is_file():
        raise ReleaseError(
            f"{folder}: not a repository (no metadata/1.root.json); create one by `airlora repo init {folder}`"
        )
    return SignedRepository(folder, keys)


def create_repository(
    folder: Path,
    keys: KeyFolder,
    *,
    num_root_keys: int = 3,
    root_threshold: int = 2,
    days: Mapping[str, int] | None = None,
) -> SignedRepository:
    """Create an empty repository with new keys, and return it.

    Args:
        folder: Folder of the repository.  It must be empty or not exist.
        keys: Folder of the private keys.  It must be empty or not exist.
        num_root_keys: Number of root keys, 1 to 16.
        root_threshold: Number of root keys that must sign a change of keys, 1 to `num_root_keys`.
        days: Validity of each role's metadata in days, 1 to 36,500.  Roles that are left out use `DEFAULT_DAYS`.

    Raises:
        ReleaseError: A folder is not empty, or a number is out of range.
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
    root = Root(expires=now(), consistent_snapshot=True)
    for role, count in (("root", num_root_keys), ("targets", 1), ("snapshot", 1), ("timestamp", 1)):
        for _ in range(count):
            root.add_key(keys.create(role), role)
    root.roles["root"].threshold = root_threshold
    root.unrecognized_fields[DAYS_FIELD] = valid["root"]
    repository = SignedRepository(folder, keys)
    repository.close("root", unsigned(root))
    for role in ("targets", "snapshot", "timestamp"):
        with repository.edit(role) as signed:
            signed.unrecognized_fields[DAYS_FIELD] = valid[role]
            if isinstance(signed, Snapshot):
                signed.meta = repository.targets_infos
            if isinstance(signed, Timestamp):
                signed.snapshot_meta = repository.snapshot_info
    repository.write()
    return repository
