"""Publishing of releases, and removal of releases that no device needs any more."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tuf.api.metadata import TargetFile

from airlora.codec.format import Limits, decode_stream, unpack_index
from airlora.delivery.repository.manifest import Manifest, PrefixScore, StreamEntry
from airlora.delivery.repository.repository import SignedRepository, target_path
from airlora.errors import CodecError, ReleaseError, StorageError
from airlora.files import make_folder, read_bytes, write_bytes

__all__ = ["collect_garbage", "current_manifest", "publish_stream"]


def publish_stream(
    repository: SignedRepository, stream: bytes, *, tenant: str | None = None, cuts: Sequence[PrefixScore] = ()
) -> Manifest:
    """Publish a stream as the newest release, and return its manifest.

    Args:
        repository: Repository with its keys of `targets` (or of the tenant), `snapshot` and `timestamp`.
        stream: Complete stream that is not a delta.
        tenant: Name of the tenant that the release is for.  None publishes for devices without a tenant.
        cuts: Measured quality of prefixes, shortest first.

    Raises:
        CodecError: The stream is damaged or truncated.
        ReleaseError: The stream is a delta or already the newest release, the tenant is unknown, or a key is missing.
        StorageError: A file cannot be written.  The previous release remains the newest.
    """
    decoded = decode_stream(stream, strict=True)
    if decoded.header.base_stream is not None:
        raise ReleaseError(
            f"stream: a delta of stream {decoded.header.base_stream[:12]}; publish a complete stream instead"
        )
    head = unpack_index(stream, Limits())
    entry = StreamEntry(
        digest=head.digest,
        head_bytes=head.num_bytes,
        total_bytes=len(stream),
        num_segments=len(head.lengths),
        format_version=head.version,
    )
    path = target_path(tenant)
    with repository.locked():
        if tenant is not None and tenant not in repository.tenants:
            known = ", ".join(repository.tenants) or "none"
            raise ReleaseError.of(
                "tenant", tenant, f"a tenant of the repository ({known}); add one by `airlora repo tenant`"
            )
        before = current_manifest(repository, tenant)
        if before is not None and before.stream == entry and list(cuts) == before.cuts:
            raise ReleaseError(f"stream: already published as release {before.version}, the newest")
        manifest = Manifest(
            version=1 if before is None else before.version + 1,
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            base_fingerprint=decoded.header.base_fingerprint,
            stream=entry,
            cuts=list(cuts),
        )
        content = manifest.to_bytes()
        make_folder(repository.folder / "streams")
        write_bytes(repository.folder / entry.path, stream)
        file = _manifest_file(repository.folder, path, hashlib.sha256(content).hexdigest())
        make_folder(file.parent)
        write_bytes(file, content)
        with repository.edit_targets(tenant or "targets") as targets:
            targets.targets[path] = TargetFile.from_data(path, content, ["sha256"])
        repository.commit()
    return manifest


def current_manifest(repository: SignedRepository, tenant: str | None = None) -> Manifest | None:
    """Return the manifest of the newest release, or None before the first one.

    Raises:
        ReleaseError: The manifest's file is missing, or its digest differs from the signed one.
    """
    path = target_path(tenant)
    target = repository.targets(tenant or "targets").targets.get(path)
    if target is None:
        return None
    file = _manifest_file(repository.folder, path, target.hashes["sha256"])
    content = read_bytes(file, "manifest", ReleaseError)
    if hashlib.sha256(content).hexdigest() != target.hashes["sha256"]:
        raise ReleaseError(f"manifest {file}: damaged (its digest differs from the signed one)")
    return Manifest.from_bytes(content)


def collect_garbage(repository: SignedRepository, *, keep: int = 1) -> dict[str, int]:
    """Remove old releases, and metadata that no metadata in force refers to.

    All roots are kept, since a device that was offline for long follows them one by one.

    Args:
        repository: Repository to clean.
        keep: Number of releases before the newest that are kept for devices that are fetching one, 0 or more.

    Returns:
        `num_files` and `num_bytes`: number and size of the removed files.

    Raises:
        ReleaseError: `keep` is negative, or a manifest in force is damaged.
        StorageError: A file cannot be removed.
    """
    if keep < 0:
        raise ReleaseError.of("keep", keep, "0 or more")
    removed = {"num_files": 0, "num_bytes": 0}
    with repository.locked():
        streams: set[str] = set()
        for tenant in [None, *repository.tenants]:
            newest = current_manifest(repository, tenant)
            folder = (repository.folder / "targets" / target_path(tenant)).parent
            for file in folder.glob("*.latest.json"):
                manifest = _readable(file)
                oldest = None if newest is None else newest.version - keep
                if oldest is not None and manifest is not None and oldest <= manifest.version <= oldest + keep:
                    streams.add(manifest.stream.path)
                else:
                    _remove(file, removed)
        for file in (repository.folder / "streams").glob("*.airs"):
            if f"streams/{file.name}" not in streams:
                _remove(file, removed)
        kept = _metadata_in_use(repository)
        for file in repository.metadata.glob("*.json"):
            if file.name != "timestamp.json" and not file.name.endswith(".root.json") and file.name not in kept:
                _remove(file, removed)
    return removed


def _metadata_in_use(repository: SignedRepository) -> set[str]:
    """Return the files of the newest snapshot and of the one before, whose timestamp a device may have just read."""
    snapshot = repository.version_of("snapshot")
    versions = [("snapshot", snapshot), *repository.named_by_snapshot(snapshot).items()]
    # The first snapshot has no predecessor, and a damaged predecessor is of no use to any device.
    with contextlib.suppress(ReleaseError):
        versions += [("snapshot", snapshot - 1), *repository.named_by_snapshot(snapshot - 1).items()]
    return {f"{version}.{role}.json" for role, version in versions}


def _manifest_file(folder: Path, path: str, digest: str) -> Path:
    parent, _, name = path.rpartition("/")
    return folder / "targets" / parent / f"{digest}.{name}"


def _readable(file: Path) -> Manifest | None:
    try:
        return Manifest.from_bytes(read_bytes(file, "manifest", ReleaseError))
    except (ReleaseError, CodecError):
        return None


def _remove(file: Path, removed: dict[str, int]) -> None:
    try:
        size = file.stat().st_size
        file.unlink()
    except OSError as error:
        raise StorageError(f"cannot remove {file}: {(error.strerror or str(error)).lower()}") from error
    removed["num_files"] += 1
    removed["num_bytes"] += size
