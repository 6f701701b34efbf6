"""Power cuts at every write and damaged files: the device runs the old or the new release, never a mixture."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airlora.delivery import DownloadTarget, StateFolder, current_manifest, publish_stream, rollback
from airlora.delivery.device.download import PartialStream
from delivery import STREAMS, Device, cuts_of

OPERATIONS = ("replace", "rename", "fsync", "unlink", "remove", "symlink", "truncate")


class PowerCutError(BaseException):
    """Simulated power cut, which no code catches."""


class Disk:
    """Record of disk operations that cuts the power before, after or in the middle of one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cut_at: int | None, how: str, seed: int) -> None:
        self.called: list[str] = []
        self.is_dead = False
        self._cut_at, self._how, self._random = cut_at, how, random.Random(seed)
        for name in OPERATIONS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if self.is_dead:
                raise PowerCutError
            self.called.append(name)
            if len(self.called) - 1 != self._cut_at:
                return operation(*arguments, **options)
            self.is_dead = True
            if name == "fsync" and self._how == "torn":
                self._tear(arguments[0])
            elif self._how == "after":
                operation(*arguments, **options)
            raise PowerCutError

        return call

    def _tear(self, descriptor: int) -> None:
        """Truncate a file, as a file system may that writes the length before the content."""
        size = os.fstat(descriptor).st_size
        if os.path.isfile(f"/proc/self/fd/{descriptor}") and size:
            # A read-only file was synced before.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self._random.randrange(size))


def prepared(device: Device) -> None:
    """Install the first release and publish the second."""
    device.visit()
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1], high=0.99))


def operations_of_a_visit(device: Device, monkeypatch: pytest.MonkeyPatch, copy: Path) -> list[str]:
    shutil.copytree(device.folder.folder, copy, symlinks=True)
    with monkeypatch.context() as patched:
        disk = Disk(patched, None, "before", 0)
        Device(StateFolder(copy), device.repository).visit()
    return disk.called


@pytest.mark.parametrize("how", ["before", "after", "torn"])
def test_a_power_cut_at_any_write_is_recovered_from(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    prepared(device)
    operations = operations_of_a_visit(device, monkeypatch, tmp_path / "copy")
    assert len(operations) > 60
    for cut_at, name in enumerate(operations):
        if how == "torn" and name != "fsync":
            continue  # Only a synced file tears; any other cut is the one before the operation.
        copy = tmp_path / f"{how}{cut_at}"
        shutil.copytree(device.folder.folder, copy, symlinks=True)
        victim = Device(StateFolder(copy), device.repository)
        with monkeypatch.context() as patched:
            disk = Disk(patched, cut_at, how, seed=cut_at)
            with pytest.raises(PowerCutError):
                victim.visit()
        assert disk.is_dead
        # The device runs the old release or a prefix of the new one.
        running = Device(StateFolder(copy), device.repository).running()
        assert running == STREAMS[0] or STREAMS[1].startswith(running), (how, cut_at)
        transport = victim.transport()
        again = victim.visit(transport)
        assert again.error is None, (how, cut_at)
        assert again.complete
        assert again.version == 2
        assert victim.running() == STREAMS[1]
        # No verified byte is downloaded again.
        fetched = sum(stop - start for path, start, stop in transport.sent if path.startswith("streams/"))
        assert fetched == len(STREAMS[1]) - again.bytes_reused
        shutil.rmtree(copy)


def test_segments_verified_before_a_power_cut_are_kept(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(device)
    entry = current_manifest(device.repository).stream
    held = 0
    for _ in range(3):
        with monkeypatch.context() as patched:
            Disk(patched, 30, "before", 0)
            with pytest.raises(PowerCutError):
                device.visit()
        before, held = held, PartialStream(device.folder.partial_path(entry.digest), entry).num_bytes
        assert held > before
    assert device.visit().bytes_reused == held


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_in_any_file_is_recovered_from(device: Device, seed: int) -> None:
    prepared(device)
    device.visit(target=DownloadTarget(max_bytes=len(STREAMS[1]) // 2))
    generator = random.Random(seed)
    files = sorted(path for path in device.folder.folder.rglob("*") if path.is_file() and path.stat().st_size)
    path = generator.choice(files)
    data = bytearray(path.read_bytes())
    data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    path.write_bytes(data)
    state = device.folder.load()
    if state.running is not None:
        running = device.running()
        assert running == STREAMS[0] or STREAMS[1].startswith(running)
    found = device.visit()
    assert found.version == 2, (path, found)
    assert device.running() == STREAMS[1]


@pytest.mark.parametrize("what", ["duplicated", "reordered", "longer", "empty", "foreign"])
def test_a_damaged_partial_download_is_completed(device: Device, what: str) -> None:
    prepared(device)
    entry = current_manifest(device.repository).stream
    good = STREAMS[1][: len(STREAMS[1]) // 2]
    bad = {
        "duplicated": good[:1500] + good[1000:],
        "reordered": good[:1000] + good[2000:3000] + good[1000:2000],
        "longer": STREAMS[1] + b"more",
        "empty": b"",
        "foreign": STREAMS[2],
    }[what]
    device.folder.partial_path(entry.digest).write_bytes(bad)
    found = device.visit()
    assert found.complete
    assert device.running() == STREAMS[1]


def test_a_lost_switch_is_rebuilt_from_its_copy_and_the_slots(device: Device) -> None:
    prepared(device)
    device.visit()
    (device.folder.folder / "state.json").write_bytes(b"nonsense")
    assert device.running() in STREAMS[:2]
    assert device.visit().version == 2
    assert device.running() == STREAMS[1]


def test_a_damaged_active_slot_activates_the_other(device: Device) -> None:
    prepared(device)
    active = device.visit().slot
    device.folder.slot_path(active).write_bytes(b"AIRS damaged")
    assert device.running() == STREAMS[0]
    assert rollback_is_refused(device)
    assert device.visit().version == 2


def rollback_is_refused(device: Device) -> bool:
    from airlora.errors import SettingsError

    try:
        rollback(device.folder)
    except SettingsError:
        return True
    return False


def test_a_lost_state_folder_starts_anew(device: Device) -> None:
    device.visit()
    shutil.rmtree(device.folder.folder)
    device.folder = StateFolder(device.folder.folder)
    assert device.visit().complete


@pytest.mark.parametrize("seed", range(10))
def test_a_flipped_bit_in_the_switch_loses_nothing(device: Device, seed: int) -> None:
    prepared(device)
    device.visit()
    before = rollback(device.folder)
    path = device.folder.folder / "state.json"
    data = bytearray(path.read_bytes())
    data[random.Random(seed).randrange(len(data))] ^= 1 << seed % 8
    path.write_bytes(data)
    after = device.folder.load()
    for name in ("active", "slots", "bad", "newest_version", "newest_digest", "tenant"):
        assert getattr(after, name) == getattr(before, name), name
    assert device.visit().version == 1
