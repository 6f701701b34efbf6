import contextlib
import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airlora.delivery import (
    PASSPHRASE_VARIABLE,
    KeyFolder,
    PrefixScore,
    add_tenant,
    collect_garbage,
    create_repository,
    current_manifest,
    default_keys,
    open_repository,
    publish_stream,
    renew,
    rotate_key,
    verify_repository,
)
from airlora.errors import AirloraError, CodecError, ReleaseError, StorageError, TrustError
from delivery import make_repository, make_stream

STREAMS = [make_stream(seed) for seed in range(4)]


def test_keys_are_outside_the_repository_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    add_tenant(repository, "acme")
    files = list((tmp_path / "keys").rglob("*.pem"))
    assert len(files) == 3 + 3 + 1
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in (tmp_path / "keys").rglob("*") if path.is_dir())
    assert not [path for path in repository.folder.rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()]


def test_keys_inside_of_the_repository_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="public"):
        KeyFolder(tmp_path / "repo" / "keys", tmp_path / "repo")


def test_the_default_folder_of_keys_is_beside_the_repository(tmp_path: Path) -> None:
    assert default_keys(tmp_path / "site") == tmp_path / "site-keys"


def test_a_published_stream_verifies(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    cuts = [PrefixScore(num_bytes=len(STREAMS[0]), num_components=16, accuracy=0.8, loss=0.4)]
    manifest = publish_stream(repository, STREAMS[0], cuts=cuts)
    assert (manifest.version, manifest.cuts) == (1, cuts)
    report = verify_repository(repository)
    assert report.manifests == {None: manifest}
    assert report.warnings == []
    assert (repository.folder / manifest.stream.path).read_bytes() == STREAMS[0]


def test_versions_rise_and_the_newest_stream_is_not_published_twice(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    assert [publish_stream(repository, stream).version for stream in STREAMS] == [1, 2, 3, 4]
    with pytest.raises(ReleaseError, match="already published as release 4"):
        publish_stream(repository, STREAMS[3])
    assert current_manifest(repository).version == 4


def test_damaged_and_truncated_streams_are_not_published(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    for data in (STREAMS[0][:-1], STREAMS[0][:-1] + bytes([STREAMS[0][-1] ^ 1]), b"", b"AIRS"):
        with pytest.raises(CodecError):
            publish_stream(repository, data)
    assert current_manifest(repository) is None


def test_a_tenant_can_sign_only_its_own_releases(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0])
    add_tenant(repository, "acme")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "keys" / "root").rename(tmp_path / "elsewhere" / "root")
    mine = publish_stream(repository, STREAMS[1], tenant="acme")
    report = verify_repository(repository)
    assert report.manifests["acme"] == mine
    assert report.manifests[None].stream != mine.stream
    # What a tenant signs outside of its folder is not looked for.
    with repository.edit_targets("acme") as targets:
        targets.targets["latest.json"] = targets.targets["tenants/acme/latest.json"]
    repository.commit()
    assert verify_repository(repository).manifests[None].stream != mine.stream


@pytest.mark.parametrize("name", ["root", "targets", "../x", "", "A", "a/b", "x" * 64])
def test_invalid_tenant_names_are_refused(tmp_path: Path, name: str) -> None:
    repository = make_repository(tmp_path)
    with pytest.raises(ReleaseError, match="tenant"):
        add_tenant(repository, name)


def test_an_unknown_tenant_cannot_publish(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="acme"):
        publish_stream(make_repository(tmp_path), STREAMS[0], tenant="acme")


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", "acme"])
def test_after_a_rotation_the_old_key_is_not_trusted(tmp_path: Path, role: str) -> None:
    repository = make_repository(tmp_path)
    add_tenant(repository, "acme")
    publish_stream(repository, STREAMS[0])
    publish_stream(repository, STREAMS[0], tenant="acme")
    gone, new = rotate_key(repository, role)
    folder = tmp_path / "keys" / (f"tenants/{role}" if role == "acme" else role)
    for keyid in gone:
        (folder / f"{keyid}.pem").unlink()
    publish_stream(repository, STREAMS[1])
    publish_stream(repository, STREAMS[1], tenant="acme")
    assert new not in gone
    assert verify_repository(repository).manifests[None].version == 2
    used = json.loads(repository.open(role).to_bytes())["signatures"]
    assert new in {signature["keyid"] for signature in used}
    assert not set(gone) & {signature["keyid"] for signature in used} or role == "root"


def test_all_root_keys_can_be_replaced_one_by_one(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0])
    first = set(repository.root().roles["root"].keyids)
    for _ in range(3):
        rotate_key(repository, "root")
    assert not first & set(repository.root().roles["root"].keyids)
    assert repository.root().version == 4
    verify_repository(repository)


def test_rotation_requires_the_threshold_of_root_keys(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    keys = sorted((tmp_path / "keys" / "root").glob("*.pem"))
    for path in keys[:2]:
        path.unlink()
    with pytest.raises(ReleaseError, match="at least 2"):
        rotate_key(repository, "timestamp")
    verify_repository(repository)


def test_publishing_without_a_key_changes_nothing(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0])
    before = verify_repository(repository)
    for path in (tmp_path / "keys" / "targets").glob("*.pem"):
        path.unlink()
    with pytest.raises(ReleaseError, match="targets keys"):
        publish_stream(repository, STREAMS[1])
    assert verify_repository(repository).manifests == before.manifests


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    next((tmp_path / "keys" / "timestamp").glob("*.pem")).chmod(0o644)
    with pytest.raises(ReleaseError, match="chmod 600"):
        publish_stream(repository, STREAMS[0])


def test_keys_can_be_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")
    repository = make_repository(tmp_path)
    assert all(b"ENCRYPTED" in path.read_bytes() for path in (tmp_path / "keys").rglob("*.pem"))
    publish_stream(repository, STREAMS[0])
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "wrong")
    with pytest.raises(ReleaseError, match="passphrase"):
        publish_stream(repository, STREAMS[1])
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    with pytest.raises(ReleaseError, match="encrypted; set its passphrase"):
        publish_stream(repository, STREAMS[1])


def test_the_error_names_a_damaged_key(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    path = next((tmp_path / "keys" / "targets").glob("*.pem"))
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ReleaseError, match=path.name):
        publish_stream(repository, STREAMS[0])


def test_an_expired_repository_is_refused_until_it_is_renewed(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0])
    with repository.edit_timestamp() as timestamp:
        timestamp.unrecognized_fields["x-airlora-days"] = -1
    repository.write()
    with pytest.raises(TrustError, match="expired"):
        verify_repository(repository)
    with repository.edit_timestamp() as timestamp:
        timestamp.unrecognized_fields["x-airlora-days"] = 7
    repository.write()
    verify_repository(repository)


def test_renewing_extends_the_expiry(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, days={"timestamp": 3, "targets": 10})
    soon = datetime.now(UTC) + timedelta(days=1)
    for role in ("timestamp", "targets"):
        with repository.edit(role) as signed:
            signed.expires = soon
    renew(repository, roles=("targets", "snapshot", "timestamp"))
    expires = verify_repository(repository).expires
    assert expires["timestamp"] > soon + timedelta(days=1)
    assert expires["targets"] > soon + timedelta(days=8)


def test_garbage_collection_removes_only_what_no_device_needs(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    manifests = [publish_stream(repository, stream) for stream in STREAMS]
    removed = collect_garbage(repository, keep=1)
    assert removed["num_files"] > 0
    there = {path.name for path in (repository.folder / "streams").iterdir()}
    assert there == {f"{manifest.stream.digest}.airs" for manifest in manifests[2:]}
    assert verify_repository(repository).manifests == {None: manifests[-1]}
    assert collect_garbage(repository, keep=1) == {"num_files": 0, "num_bytes": 0}
    assert publish_stream(repository, STREAMS[0]).version == 5


def test_garbage_collection_keeps_a_stream_that_two_tenants_share(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    add_tenant(repository, "acme")
    publish_stream(repository, STREAMS[0])
    kept = publish_stream(repository, STREAMS[0], tenant="acme")
    publish_stream(repository, STREAMS[1])
    collect_garbage(repository, keep=0)
    assert verify_repository(repository).manifests["acme"] == kept


@pytest.mark.parametrize("where", ["metadata", "targets", "streams"])
def test_a_flipped_byte_anywhere_is_found(tmp_path: Path, where: str) -> None:
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0])
    for path in [path for path in (repository.folder / where).rglob("*") if path.is_file()]:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        whole = path.read_bytes()
        path.write_bytes(data)
        if path.name == "bundle.z":
            # A cache, which nobody has to believe.
            assert verify_repository(repository).warnings
        elif not (path.name.startswith("1.") and path.name != "1.root.json"):
            with pytest.raises(AirloraError):
                verify_repository(repository)
        path.write_bytes(whole)
    verify_repository(repository)


def test_verification_finds_a_private_key_in_the_repository(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0])
    slipped = repository.folder / "targets" / "backup.pem"
    slipped.write_bytes(next((tmp_path / "keys" / "targets").glob("*.pem")).read_bytes())
    with pytest.raises(ReleaseError, match="private key"):
        verify_repository(repository)


def test_existing_files_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "index.html").write_text("mine")
    with pytest.raises(ReleaseError, match="empty"):
        make_repository(tmp_path)
    with pytest.raises(ReleaseError, match="not a repository"):
        open_repository(tmp_path / "repo", KeyFolder(tmp_path / "keys", tmp_path / "repo"))


@pytest.mark.parametrize(
    "options",
    [
        {"num_root_keys": 0},
        {"root_threshold": 4},
        {"root_threshold": 0},
        {"num_root_keys": 17},
        {"days": {"timestamp": 0}},
        {"days": {"surprise": 3}},
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ReleaseError):
        make_repository(tmp_path, **options)
    assert not (tmp_path / "repo").exists()


def test_the_lock_of_another_writer_is_awaited_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airlora.delivery.repository.repository._LOCK_S", 0.05)
    repository = make_repository(tmp_path)
    other = open_repository(repository.folder, repository.keys)
    with other.locked(), pytest.raises(ReleaseError, match="another process"):
        publish_stream(repository, STREAMS[0])


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_the_error_names_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(AirloraError, match="cannot"):
        create_repository(tmp_path / "repo", KeyFolder(tmp_path / "keys", tmp_path / "repo"))


def key_file(folder: Path, role: str) -> Path:
    return next((folder / "keys" / role).glob("*.pem"))


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
def test_a_publish_without_all_keys_changes_nothing(tmp_path: Path, role: str) -> None:
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0])
    key, before = key_file(tmp_path, role), verify_repository(repository).manifests
    content = key.read_bytes()
    key.unlink()
    files = set(repository.metadata.iterdir())
    with pytest.raises(ReleaseError, match=f"{role} keys"):
        publish_stream(repository, STREAMS[1])
    assert set(repository.metadata.iterdir()) == files
    assert verify_repository(repository).manifests == before
    key.write_bytes(content)
    key.chmod(0o600)
    assert publish_stream(repository, STREAMS[1]).version == 2
    assert verify_repository(repository).manifests[None].version == 2


def failing_write(monkeypatch: pytest.MonkeyPatch, fails_at: int) -> pytest.MonkeyPatch:
    """Let the disk be full at the n-th of the metadata."""
    from airlora.delivery.repository import repository as module

    real, count = module.write_bytes, 0

    def write(path: Path, data: bytes) -> None:
        nonlocal count
        count += 1
        if count > fails_at:
            raise StorageError(f"cannot write {path}: no space left on device")
        real(path, data)

    monkeypatch.setattr(module, "write_bytes", write)
    return monkeypatch


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_files_of_a_failed_publish_are_not_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0])
    with monkeypatch.context() as patch:
        failing_write(patch, fails_at)
        with pytest.raises(StorageError):
            publish_stream(repository, STREAMS[1])
    assert verify_repository(repository).manifests[None].version == 1
    assert current_manifest(repository).version == 1
    # Garbage is what is left, and nothing that devices need.
    collect_garbage(repository)
    assert verify_repository(repository).manifests[None].version == 1
    assert publish_stream(repository, STREAMS[1]).version == 2
    assert publish_stream(repository, STREAMS[2]).version == 3
    collect_garbage(repository)
    assert verify_repository(repository).manifests[None].version == 3


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp", "acme", "root"])
@pytest.mark.parametrize("fails_at", [0, 1, 2, 3])
def test_an_interrupted_rotation_leaves_a_trusted_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, fails_at: int
) -> None:
    repository = make_repository(tmp_path)
    add_tenant(repository, "acme")
    publish_stream(repository, STREAMS[0])
    publish_stream(repository, STREAMS[1], tenant="acme")
    with monkeypatch.context() as patch:
        failing_write(patch, fails_at)
        with contextlib.suppress(StorageError):
            rotate_key(repository, role)
    manifests = verify_repository(repository).manifests
    assert (manifests[None].version, manifests["acme"].version) == (1, 1)
    rotate_key(repository, role)
    publish_stream(repository, STREAMS[2])
    publish_stream(repository, STREAMS[2], tenant="acme")
    assert verify_repository(repository).manifests["acme"].version == 2


def test_a_rotation_without_a_required_key_changes_nothing(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0])
    key_file(tmp_path, "snapshot").unlink()
    with pytest.raises(ReleaseError, match="snapshot keys"):
        rotate_key(repository, "targets")
    assert verify_repository(repository).manifests[None].version == 1
    assert not (repository.metadata / "2.root.json").exists()


def test_two_key_folders_share_the_lock_of_their_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from airlora.delivery.repository import repository as module

    monkeypatch.setattr(module, "_LOCK_S", 0.05)
    repository = make_repository(tmp_path)
    (tmp_path / "other").mkdir()
    other = open_repository(repository.folder, KeyFolder(tmp_path / "other", repository.folder))
    with repository.locked(), pytest.raises(ReleaseError, match="another process"), other.locked():
        pass


def test_garbage_collection_keeps_the_previous_snapshot(tmp_path: Path) -> None:
    """Renewals raise the snapshot's version alone: the targets that it names are older than the number before."""
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0])
    for _ in range(5):
        renew(repository)
    collect_garbage(repository)
    assert verify_repository(repository).manifests[None].version == 1
    snapshot = repository.version_of("snapshot")
    names = {path.name for path in repository.metadata.glob("*.snapshot.json")}
    assert names == {f"{snapshot}.snapshot.json", f"{snapshot - 1}.snapshot.json"}


def test_verification_reports_a_stale_bundle(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    stale = (repository.metadata / "bundle.z").read_bytes()
    publish_stream(repository, STREAMS[0])
    assert verify_repository(repository).warnings == []
    for content in (stale, b"nonsense"):
        (repository.metadata / "bundle.z").write_bytes(content)
        assert "bundle.z" in verify_repository(repository).warnings[0]
    renew(repository)
    assert verify_repository(repository).warnings == []
