"""Power cuts at every write, and damage on the disk: afterwards the device runs the old or the new, never a mixture."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airlora.delivery import StateFolder, Wish, current_manifest, publish_stream, rollback
from airlora.delivery.device.download import PartialStream
from delivery import STREAMS, Device, cuts_of

OPERATIONS = ("replace", "rename", "fsync", "unlink", "remove", "symlink", "truncate")


class PowerCutError(BaseException):
    """Nothing goes on after it."""


class Disk:
    """Counts what changes the disk, and cuts the power at one of them: before it, after it, or with half of it lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cut_at: int | None, how: str, seed: int) -> None:
        self.count, self.is_dead = 0, False
        self._cut_at, self._how, self._random = cut_at, how, random.Random(seed)
        for name in OPERATIONS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if self.is_dead:
                raise PowerCutError
            is_last, self.count = self.count == self._cut_at, self.count + 1
            if not is_last:
                return operation(*arguments, **options)
            self.is_dead = True
            if name == "fsync" and self._how == "torn":
                self._tear(arguments[0])
            elif self._how == "after":
                operation(*arguments, **options)
            raise PowerCutError

        return call

    def _tear(self, descriptor: int) -> None:
        """Lose the end of what was to be synced, as a file system may that wrote the length before the content."""
        size = os.fstat(descriptor).st_size
        if os.path.isfile(f"/proc/self/fd/{descriptor}") and size:
            # A file that is open for reading alone was written and synced before.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self._random.randrange(size))


def prepared(device: Device) -> None:
    """Let the device run the first release, and publish the second."""
    device.visit()
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1], high=0.99))


def number_of_operations(device: Device, monkeypatch: pytest.MonkeyPatch, copy: Path) -> int:
    shutil.copytree(device.folder.folder, copy, symlinks=True)
    with monkeypatch.context() as patched:
        disk = Disk(patched, None, "before", 0)
        Device(StateFolder(copy), device.repository).visit()
    return disk.count


@pytest.mark.parametrize("how", ["before", "after", "torn"])
def test_a_power_cut_anywhere(device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str) -> None:
    prepared(device)
    total = number_of_operations(device, monkeypatch, tmp_path / "copy")
    assert total > 60
    for cut_at in range(total):
        copy = tmp_path / f"{how}{cut_at}"
        shutil.copytree(device.folder.folder, copy, symlinks=True)
        victim = Device(StateFolder(copy), device.repository)
        with monkeypatch.context() as patched:
            disk = Disk(patched, cut_at, how, seed=cut_at)
            with pytest.raises(PowerCutError):
                victim.visit()
        assert disk.is_dead
        # What runs is the old adapter, or whole segments of the new one from its start.
        running = Device(StateFolder(copy), device.repository).running()
        assert running == STREAMS[0] or STREAMS[1].startswith(running), (how, cut_at)
        link = victim.link()
        again = victim.visit(link)
        assert again.error is None, (how, cut_at)
        assert again.complete
        assert again.version == 2
        assert victim.running() == STREAMS[1]
        # Nothing that was verified on the disk came over the link again.
        fetched = sum(stop - start for path, start, stop in link.sent if path.startswith("streams/"))
        assert fetched == len(STREAMS[1]) - again.bytes_reused
        shutil.rmtree(copy)


def test_what_was_verified_before_a_power_cut_is_kept(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(device)
    entry = current_manifest(device.repository).stream
    held = 0
    for _ in range(3):
        with monkeypatch.context() as patched:
            Disk(patched, 30, "before", 0)
            with pytest.raises(PowerCutError):
                device.visit()
        before, held = held, PartialStream(device.folder.part_path(entry.digest), entry).num_bytes
        assert held > before
    assert device.visit().bytes_reused == held


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_byte_on_the_disk(device: Device, seed: int) -> None:
    """Whatever file it is in: what runs afterwards is a release, and the newest can be got."""
    prepared(device)
    device.visit(wish=Wish(max_bytes=len(STREAMS[1]) // 2))
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
def test_a_part_that_is_not_what_it_was(device: Device, what: str) -> None:
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
    device.folder.part_path(entry.digest).write_bytes(bad)
    found = device.visit()
    assert found.complete
    assert device.running() == STREAMS[1]


def test_a_lost_switch_is_made_again_from_the_slots(device: Device) -> None:
    prepared(device)
    device.visit()
    (device.folder.folder / "state.json").write_bytes(b"nonsense")
    assert device.running() in STREAMS[:2]
    assert device.visit().version == 2
    assert device.running() == STREAMS[1]


def test_a_damaged_active_slot_gives_way_to_the_other(device: Device) -> None:
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


def test_a_state_that_is_all_gone_starts_anew(device: Device) -> None:
    device.visit()
    shutil.rmtree(device.folder.folder)
    device.folder = StateFolder(device.folder.folder)
    assert device.visit().complete


@pytest.mark.parametrize("seed", range(10))
def test_a_flipped_bit_in_the_switch_forgets_nothing(device: Device, seed: int) -> None:
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
