"""The attacks that The Update Framework is made against, each on the agent: the device runs on what it ran before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Targets

from airlora.delivery import LinkLimits, SignedRepository, StateFolder, Visit, publish_stream, rotate_key
from airlora.errors import NetworkError, TrustError
from delivery import STREAMS, Device, cuts_of, make_repository

Tamper = Callable[[str, bytes], bytes | Iterator[bytes]]


def publish(device: Device, place: int) -> None:
    publish_stream(device.repository, STREAMS[place], cuts=cuts_of(STREAMS[place]))


def attacked(device: Device, tamper: Tamper) -> Visit:
    return device.visit(device.link(tamper=tamper))


def refused(device: Device, found: Visit, *, runs: int = 0) -> None:
    assert isinstance(found.error, TrustError), found
    assert device.running() == STREAMS[runs]
    assert found.version == runs + 1


def test_arbitrary_install_with_a_repository_of_other_keys(device: Device, tmp_path: Path) -> None:
    device.visit()
    (tmp_path / "evil").mkdir()
    evil = make_repository(tmp_path / "evil")
    for stream in STREAMS[:2]:
        publish_stream(evil, stream)
    device.repository = evil
    refused(device, device.visit(root=None))


def test_arbitrary_install_of_another_stream_under_the_signed_name(device: Device) -> None:
    device.visit()
    publish(device, 1)
    refused(device, attacked(device, lambda path, data: STREAMS[2] if path.startswith("streams/") else data))


def test_arbitrary_install_of_another_manifest(device: Device) -> None:
    device.visit()
    publish(device, 1)

    def tamper(path: str, data: bytes) -> bytes:
        return data.replace(b'"version":2', b'"version":9') if path.startswith("targets/") else data

    refused(device, attacked(device, tamper))


def test_rollback_to_an_older_timestamp(device: Device) -> None:
    old = (device.repository.folder / "metadata" / "timestamp.json").read_bytes()
    publish(device, 1)
    device.visit()
    refused(device, attacked(device, lambda path, data: old if path.endswith("timestamp.json") else data), runs=1)


def test_rollback_even_if_the_metadata_on_the_device_were_lost(device: Device, tmp_path: Path) -> None:
    shutil.copytree(device.repository.folder, tmp_path / "old")
    publish(device, 1)
    device.visit()
    shutil.rmtree(device.folder.trust)
    device.folder = StateFolder(device.folder.folder)
    device.repository = SignedRepository(tmp_path / "old", device.repository.keys)
    refused(device, device.visit(), runs=1)


def test_rollback_of_the_snapshot_under_a_new_timestamp(device: Device) -> None:
    repository = device.repository
    old = repository.open("targets")
    publish(device, 1)
    device.visit()
    # A thief of the snapshot's and timestamp's keys says that an older version of the targets is the newest.
    with repository.edit_snapshot() as snapshot:
        snapshot.meta["targets.json"] = MetaFile(old.signed.version)
    repository.do_timestamp()
    repository.write()
    refused(device, device.visit(), runs=1)


def test_fast_forward_is_recovered_from_by_new_keys(device: Device) -> None:
    device.visit()
    # A thief of the timestamp's key moves its version far on: honest ones look old from then on.
    honest = (device.repository.folder / "metadata" / "timestamp.json").read_bytes()
    md = Metadata.from_bytes(honest)
    md.signed.version = 10_000
    role = device.repository.root().roles["timestamp"]
    key = device.repository.root().keys[role.keyids[0]]
    md.sign(device.repository.keys.signer("timestamp", key))
    forward = md.to_bytes()
    assert attacked(device, lambda path, data: forward if path.endswith("timestamp.json") else data).error is None
    refused(device, device.visit())
    rotate_key(device.repository, "timestamp")
    publish(device, 1)
    assert device.visit().version == 2


def test_freeze_ends_with_the_timestamps_days(device: Device) -> None:
    device.visit()
    with device.repository.edit_timestamp() as timestamp:
        timestamp.unrecognized_fields["x-airlora-days"] = -1
    device.repository.write()
    frozen = (device.repository.folder / "metadata" / "timestamp.json").read_bytes()
    with device.repository.edit_timestamp() as timestamp:
        timestamp.unrecognized_fields["x-airlora-days"] = 7
    device.repository.write()
    publish(device, 1)
    refused(device, attacked(device, lambda path, data: frozen if path.endswith("timestamp.json") else data))


def endless(path: str, data: bytes) -> Iterator[bytes]:
    yield data
    while True:
        yield bytes(10_000)


@pytest.mark.parametrize("what", ["timestamp.json", "snapshot.json", "targets.json", "latest.json", ".airs"])
def test_endless_data_is_cut_off(device: Device, what: str) -> None:
    device.visit()
    publish(device, 1)
    link = device.link(tamper=lambda path, data: endless(path, data) if path.endswith(what) else data)
    found = device.visit(link)
    assert link.num_bytes < 2_000_000
    if what == ".airs":
        # What is beyond the signed length is not even asked for.
        assert found.version == 2
    else:
        refused(device, found)


def test_mix_and_match_of_targets_with_another_snapshot(device: Device) -> None:
    folder = device.repository.folder / "metadata"
    device.visit()
    publish(device, 1)
    old = (folder / f"{device.repository.version_of('targets') - 1}.targets.json").read_bytes()
    refused(device, attacked(device, lambda path, data: old if path.endswith(".targets.json") else data))


def test_mix_and_match_of_segments_of_two_releases(device: Device) -> None:
    device.visit()
    publish(device, 1)

    def tamper(path: str, data: bytes) -> bytes:
        return data[:2000] + STREAMS[0][2000:] if path.startswith("streams/") else data

    found = attacked(device, tamper)
    refused(device, found)
    assert found.bytes_fetched < 2000


def test_wrong_software_another_targets_manifest(device: Device) -> None:
    """A manifest that is signed, but for another name."""
    device.visit()
    signed = device.repository.targets()
    other = signed.targets["latest.json"]
    with device.repository.edit_targets() as targets:
        targets.targets["other.json"] = other
        del targets.targets["latest.json"]
    device.repository.commit()
    found = device.visit()
    assert found.note == "nothing has been released"
    assert device.running() == STREAMS[0]


def _evil_root(device: Device, num_stolen: int) -> bytes:
    """Return a second root that gives the targets to a thief, signed by so many of the three root keys."""
    repository = device.repository
    md = repository.open("root")
    root: Root = md.signed
    thief = CryptoSigner.generate_ed25519()
    root.add_key(thief.public_key, "targets")
    root.version += 1
    md.signatures.clear()
    for keyid in root.roles["root"].keyids[:num_stolen]:
        md.sign(repository.keys.signer("root", root.keys[keyid]), append=True)
    return md.to_bytes()


@pytest.mark.parametrize("num_stolen", [0, 1])
def test_root_keys_below_their_threshold_change_nothing(device: Device, num_stolen: int) -> None:
    device.visit()
    (device.repository.folder / "metadata" / "2.root.json").write_bytes(_evil_root(device, num_stolen))
    refused(device, device.visit())


def test_online_keys_alone_release_nothing(device: Device) -> None:
    """A thief of the snapshot's and timestamp's keys cannot sign targets."""
    device.visit()
    repository = device.repository
    md = Metadata(Targets(version=repository.version_of("targets") + 1, expires=datetime.now(UTC) + timedelta(days=9)))
    role = repository.root().roles["snapshot"]
    md.sign(repository.keys.signer("snapshot", repository.root().keys[role.keyids[0]]))
    path = repository.folder / "metadata" / f"{md.signed.version}.targets.json"
    path.write_bytes(md.to_bytes())
    with repository.edit_snapshot() as snapshot:
        snapshot.meta["targets.json"] = MetaFile(md.signed.version)
    repository.do_timestamp()
    repository.write()
    refused(device, device.visit())


def test_a_tenant_cannot_release_for_others(device: Device) -> None:
    from airlora.delivery import add_tenant

    device.visit()
    add_tenant(device.repository, "acme")
    publish_stream(device.repository, STREAMS[1], tenant="acme")
    with device.repository.edit_targets("acme") as targets:
        targets.targets["latest.json"] = targets.targets["tenants/acme/latest.json"]
    device.repository.commit()
    assert device.visit().version == 1
    assert device.running() == STREAMS[0]


def test_slow_retrieval_is_given_up(device: Device) -> None:
    device.visit()
    publish(device, 1)

    def drip(path: str, data: bytes) -> bytes | Iterator[bytes]:
        return (data[at : at + 1] for at in range(len(data))) if path.startswith("streams/") else data

    link = device.link(tamper=drip, rate_bps=30, limits=LinkLimits(patience_s=20, max_attempts=3))
    found = device.visit(link)
    assert isinstance(found.error, NetworkError)
    assert link.time.now_s - 1000 < 600
    assert device.running() == STREAMS[0]


def test_a_first_root_that_is_not_the_repositorys(device: Device, tmp_path: Path) -> None:
    (tmp_path / "evil").mkdir()
    evil = make_repository(tmp_path / "evil")
    root = (evil.folder / "metadata" / "1.root.json").read_bytes()
    found = device.visit(root=root)
    assert isinstance(found.error, TrustError)
    assert found.version is None


@pytest.mark.parametrize("root", [b"", b"{}", b"\x00" * 100, b'{"signed": 3}', json.dumps({"signatures": []}).encode()])
def test_a_root_that_is_none(device: Device, root: bytes) -> None:
    assert isinstance(device.visit(root=root).error, TrustError)
    # What was refused leaves nothing behind that would be trusted later.
    assert device.visit().complete
