"""What a device keeps: two slots, which of them it runs, and the newest version it has ever seen.

```text
STATE/.lock             held by the one agent that may write
STATE/state.json        sealed; the switch: written last, in one rename
STATE/state.copy.json   the same once more, for when that is damaged
STATE/a, STATE/b        slots: adapter.airs, whole segments of one release from its first byte on
STATE/parts/<digest>    verified bytes of the stream that is being fetched
STATE/trust             metadata of the repository
```

A slot's file is replaced in one rename by a longer prefix of the same release, or by another release while the other
slot is the active one.  What is active is verified before it is used: a flipped bit makes the other slot active.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airlora.codec import DecodedStream, decode_stream
from airlora.errors import CodecError, SettingsError, StorageError, TrustError
from airlora.files import make_folder, seal, sync_folder, unseal_bytes, write_bytes

__all__ = ["MAX_BAD", "DeviceState", "Installed", "SlotName", "StateFolder"]

STATE_VERSION = 1

STATE_FILES = ("state.json", "state.copy.json")

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EIO)
"""What will not be better at the next attempt; other errors may be."""

MAX_HISTORY = 100
"""Older entries are forgotten."""

MAX_BAD = 100
"""Releases that are remembered as refused."""

SlotName = Literal["a", "b"]

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Installed(_Part):
    """What lies in a slot.

    Args:
        version: Of the release.
        digest: Of the stream.
        num_bytes: Verified bytes of it.
        num_segments: Whole segments in them.
        is_complete: Whether that is all of it.
        accuracy: What the release promises for so many bytes; None: it was not measured.
    """

    version: int
    digest: Digest
    num_bytes: int
    num_segments: int
    is_complete: bool
    accuracy: float | None = None


class DeviceState(_Part):
    """The switch, and what must not be forgotten.

    Args:
        active: The slot that the device runs.
        slots: What lies in them.
        newest_version: No older release is ever taken.
        newest_digest: Its stream: one version stands for one stream.
        tenant: Whose releases this device takes; it stays so.
        bad: Digests of releases that failed the health check or were rolled back: they are not installed again.
        untold: A report of a failure that nobody took yet.
        history: What happened, oldest first.
    """

    active: SlotName | None = None
    slots: dict[SlotName, Installed] = {}
    newest_version: int = 0
    newest_digest: str | None = None
    tenant: str | None = None
    bad: list[str] = []
    untold: dict[str, Any] | None = None
    history: list[dict[str, Any]] = []

    @property
    def running(self) -> Installed | None:
        """What the device runs."""
        return None if self.active is None else self.slots.get(self.active)

    @property
    def idle_slot(self) -> SlotName:
        """The slot that may be written."""
        return "b" if self.active == "a" else "a"


class StateFolder:
    """The folder; made if need be.

    Args:
        folder: Where.

    Raises:
        StorageError: It cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder)
        self.trust, self.parts = make_folder(folder / "trust"), make_folder(folder / "parts")

    @contextmanager
    def locked(self, *, wait_s: float = 0.0) -> Iterator[None]:
        """Let one agent at a time write; raises `SettingsError` if another one still does after `wait_s`."""
        lock = FileLock(self.folder / ".lock", timeout=wait_s)
        try:
            lock.acquire()
        except Timeout:
            raise SettingsError(f"{self.folder}: another agent is at work on this state") from None
        except OSError as error:
            raise StorageError(f"cannot lock {self.folder}: {(error.strerror or str(error)).lower()}") from error
        try:
            yield
        finally:
            lock.release()

    def load(self) -> DeviceState:
        """Return the state, mended: of a damaged switch the copy counts, of both the slots, and a damaged slot is left.

        Raises:
            StorageError: Something cannot be read at the moment, which is no damage.
        """
        found = [_read_state(self.folder / name) for name in STATE_FILES]
        if found[0] == "missing" and found[1] == "missing":
            return DeviceState()
        whole = [state for state in found if isinstance(state, DeviceState)]
        if not whole:
            return self._from_slots()
        state = whole[0]
        if not isinstance(found[0], DeviceState):
            self._note(state, "recovered", of="its copy")
        for name in [name for name in state.slots if not self._is_whole(name, state.slots[name])]:
            del state.slots[name]
            self._note(state, "damaged", slot=name)
        if state.running is None:
            # Rather nothing than what was refused.
            state.active = next((name for name in state.slots if state.slots[name].digest not in state.bad), None)
        return state

    def save(self, state: DeviceState, event: str | None = None, **values: Any) -> None:
        """Write the state in one rename, and then its copy; an event is added to its history; raises `StorageError`."""
        if event is not None:
            self._note(state, event, **values)
        content = seal(state.model_dump_json().encode(), "state", STATE_VERSION)
        for name in STATE_FILES:
            write_bytes(self.folder / name, content)

    def slot_path(self, name: SlotName) -> Path:
        """Return where a slot's adapter lies."""
        return self.folder / name / "adapter.airs"

    def part_path(self, digest: str) -> Path:
        """Return where what came of a stream is kept."""
        return self.parts / digest

    def read_slot(self, name: SlotName) -> tuple[bytes, DecodedStream]:
        """Return a slot's bytes and what they decode to.

        Raises:
            CodecError: They are damaged or missing.
            StorageError: They cannot be read at the moment.
        """
        try:
            data = self.slot_path(name).read_bytes()
        except OSError as error:
            reason = f"slot {name}: {(error.strerror or str(error)).lower()}"
            raise (CodecError(reason) if error.errno in _GONE else StorageError(reason)) from error
        return data, decode_stream(data)

    def write_candidate(self, name: SlotName, data: bytes) -> Path:
        """Write what may become a slot's adapter beside it, and return its file; raises `StorageError`."""
        path = make_folder(self.slot_path(name).parent) / "candidate.airs"
        write_bytes(path, data)
        return path

    def accept_candidate(self, name: SlotName) -> None:
        """Let the candidate take the place of a slot's adapter in one rename; raises `StorageError`."""
        path = self.slot_path(name)
        try:
            os.replace(path.with_name("candidate.airs"), path)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error
        sync_folder(path.parent)

    def _is_whole(self, name: SlotName, installed: Installed) -> bool:
        try:
            data, decoded = self.read_slot(name)
        except CodecError:
            return False
        # A longer prefix of the same release is what a power cut leaves between slot and switch.
        return decoded.digest == installed.digest and decoded.bytes_used == len(data) >= installed.num_bytes

    def _from_slots(self) -> DeviceState:
        state = DeviceState()
        for name in ("a", "b"):
            try:
                _, decoded = self.read_slot(name)
            except CodecError:
                continue
            state.slots[name] = Installed(
                version=0,
                digest=decoded.digest,
                num_bytes=decoded.bytes_used,
                num_segments=decoded.num_segments,
                is_complete=decoded.is_complete,
            )
        state.active = next(iter(state.slots), None)
        self._note(state, "recovered")
        return state

    @staticmethod
    def _note(state: DeviceState, event: str, **values: Any) -> None:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        state.history = [*state.history, {"time": when, "event": event, **values}][-MAX_HISTORY:]


def _read_state(path: Path) -> DeviceState | Literal["missing", "damaged"]:
    try:
        sealed = path.read_bytes()
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        if error.errno in _GONE:
            return "damaged"
        raise StorageError(f"state {path}: {(error.strerror or str(error)).lower()}") from error
    try:
        return DeviceState.model_validate(json.loads(unseal_bytes(sealed, path, "state", STATE_VERSION, TrustError)))
    except (TrustError, ValueError, ValidationError):
        return "damaged"
