"""State folder of a device: two slots for adapters, the switch between them and the newest version ever seen.

```text
STATE/.lock             lock file of the agent that may write
STATE/state.json        `DeviceState` with its SHA-256, the switch: it names the active slot
STATE/state.copy.json   copy of it, read when the first one is damaged
STATE/a, STATE/b        slots: adapter.airs, a prefix of whole segments of one release
STATE/parts/<digest>    verified bytes of the stream that is being downloaded
STATE/trust             metadata of the repository
```

States of the two slots, and what changes them. A write is one rename, so a power cut leaves the state before or after.

| state | event | next state |
|---|---|---|
| no slot is active | a candidate passes its checks | slot a is active |
| slot x is active | a longer prefix of the same release passes its checks | x is active with the longer prefix |
| slot x is active | another release passes its checks | the other slot is active; x keeps its adapter |
| slot x is active | rollback | the other slot is active; the digest of x is refused from now on |
| slot x is active | x is damaged | the other slot is active, unless its digest is refused; else none |
| any | `state.json` is damaged | as in `state.copy.json` |
| any | both are damaged | the first slot with a valid stream is active; refused digests are forgotten |

A candidate takes three steps: `write_candidate` writes it beside the slot, `accept_candidate` renames it over the
slot's adapter, and `save` switches. A power cut before the switch leaves one of two harmless states: a longer prefix
than the switch names, or an adapter in the inactive slot that the next visit replaces.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airlora.codec import DecodedStream, decode_stream
from airlora.delivery.device.transport import printable
from airlora.errors import CodecError, SettingsError, StorageError, TrustError
from airlora.files import make_folder, seal, sync_folder, unseal_bytes, write_bytes

__all__ = ["DeviceState", "InstalledAdapter", "SlotName", "StateFolder", "rollback", "storage_errors"]

log = logging.getLogger(__name__)

STATE_VERSION = 1

STATE_FILES = ("state.json", "state.copy.json")

_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EIO)
"""Errors of a file that is damaged or lost. Other errors may pass."""

MAX_HISTORY = 100
"""Number of history entries that are kept."""

MAX_BAD = 100
"""Number of refused digests that are kept."""

SlotName = Literal["a", "b"]

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@contextmanager
def storage_errors(action: str) -> Iterator[None]:
    """Raise operating system errors as `StorageError`.

    Args:
        action: Action for the error message, such as `"write FILE"`.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot {action}: {(error.strerror or str(error)).lower()}") from error


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InstalledAdapter(_Stored):
    """Content of a slot.

    Attributes:
        version: Version of the release. 0 if it was lost with the switch.
        digest: Digest of the stream, 64 hexadecimal digits.
        num_bytes: Size of the installed prefix in bytes.
        num_segments: Number of segments in the prefix.
        is_complete: Whether the prefix is the complete stream.
        accuracy: Accuracy that the manifest promises for the prefix, 0 to 1. None if it was not measured.
    """

    version: int
    digest: Digest
    num_bytes: int
    num_segments: int
    is_complete: bool
    accuracy: float | None = None


class DeviceState(_Stored):
    """Everything that a device must not forget.

    Attributes:
        active: Slot that the device runs. None if it runs none.
        slots: Content of the slots.
        newest_version: Newest version of a release seen. The device never installs an older one.
        newest_digest: Digest of the stream of that version.
        tenant: Tenant whose releases the device installs. It cannot change.
        bad: Digests of streams that a health check refused or that were rolled back. They are not installed again.
        untold: Report of a failure that no server has accepted yet.
        history: Events, oldest first.
    """

    active: SlotName | None = None
    slots: dict[SlotName, InstalledAdapter] = {}
    newest_version: int = 0
    newest_digest: str | None = None
    tenant: str | None = None
    bad: list[str] = []
    untold: dict[str, Any] | None = None
    history: list[dict[str, Any]] = []

    @property
    def running(self) -> InstalledAdapter | None:
        """Content of the active slot. None if no slot is active."""
        return None if self.active is None else self.slots.get(self.active)

    @property
    def idle_slot(self) -> SlotName:
        """Slot for another release than the running one."""
        return "b" if self.active == "a" else "a"

    def refuse(self, digest: str) -> None:
        """Add a digest to the refused ones. The oldest is dropped when there are too many."""
        self.bad = [*self.bad, digest][-MAX_BAD:]


class StateFolder:
    """Reader and writer of a state folder.

    Args:
        folder: Path of the folder. It is created if it does not exist.

    Attributes:
        trust: Folder of the repository's metadata.
        parts: Folder of partial downloads.

    Raises:
        StorageError: The folder cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder)
        self.trust, self.parts = make_folder(folder / "trust"), make_folder(folder / "parts")

    @contextmanager
    def locked(self, *, wait_s: float = 0.0) -> Iterator[None]:
        """Hold the lock of the folder.

        Args:
            wait_s: Maximum seconds to wait for another process that holds it.

        Raises:
            SettingsError: Another process holds the lock.
            StorageError: The lock file cannot be written.
        """
        lock = FileLock(self.folder / ".lock", timeout=wait_s)
        with storage_errors(f"lock {self.folder}"):
            try:
                lock.acquire()
            except Timeout:
                raise SettingsError(f"{self.folder}: another agent uses this folder; stop it or wait") from None
        try:
            yield
        finally:
            lock.release()

    def load(self) -> DeviceState:
        """Return the state, repaired from the copy and the slots as the table of this module says.

        Raises:
            StorageError: A file exists and cannot be read at the moment.
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
            # A refused adapter must not run, even if no other is left.
            state.active = next((name for name in state.slots if state.slots[name].digest not in state.bad), None)
        return state

    def save(self, state: DeviceState, event: str | None = None, **values: Any) -> None:
        """Write the state and then its copy.

        Args:
            state: State of the device.
            event: Name of an event to add to the history. None adds none.
            **values: Further values of the event.

        Raises:
            StorageError: A file cannot be written.
        """
        if event is not None:
            self._note(state, event, **values)
        content = seal(state.model_dump_json().encode(), "state", STATE_VERSION)
        for name in STATE_FILES:
            write_bytes(self.folder / name, content)

    def slot_path(self, name: SlotName) -> Path:
        """Return the path of a slot's adapter."""
        return self.folder / name / "adapter.airs"

    def partial_path(self, digest: str) -> Path:
        """Return the path of a partial download."""
        return self.parts / digest

    def drop_partials(self, *, keep: str) -> None:
        """Delete the partial downloads of all streams but one; raises `OSError` if a file cannot be deleted.

        Args:
            keep: Digest of the stream whose partial download stays.
        """
        for path in self.parts.iterdir():
            if path.name != keep:
                path.unlink(missing_ok=True)

    def read_slot(self, name: SlotName) -> tuple[bytes, DecodedStream]:
        """Return the bytes of a slot's adapter and the decoded stream.

        Raises:
            CodecError: The file is damaged or missing.
            StorageError: The file exists and cannot be read at the moment.
        """
        try:
            data = self.slot_path(name).read_bytes()
        except OSError as error:
            reason = f"slot {name}: {(error.strerror or str(error)).lower()}"
            raise (CodecError(reason) if error.errno in _DAMAGE else StorageError(reason)) from error
        return data, decode_stream(data)

    def write_candidate(self, name: SlotName, data: bytes) -> Path:
        """Write a candidate beside a slot's adapter and return its path; raise `StorageError` if that fails."""
        path = make_folder(self.slot_path(name).parent) / "candidate.airs"
        write_bytes(path, data)
        return path

    def accept_candidate(self, name: SlotName) -> None:
        """Rename the candidate over a slot's adapter; raise `StorageError` if that fails."""
        path = self.slot_path(name)
        with storage_errors(f"write {path}"):
            os.replace(path.with_name("candidate.airs"), path)
        sync_folder(path.parent)

    def _is_whole(self, name: SlotName, installed: InstalledAdapter) -> bool:
        try:
            data, decoded = self.read_slot(name)
        except CodecError:
            return False
        # A power cut between slot and switch leaves a longer prefix of the same release.
        return decoded.digest == installed.digest and decoded.bytes_used == len(data) >= installed.num_bytes

    def _from_slots(self) -> DeviceState:
        state = DeviceState()
        for name in ("a", "b"):
            try:
                _, decoded = self.read_slot(name)
            except CodecError:
                continue
            state.slots[name] = InstalledAdapter(
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
        log.info("%s: %s", event, printable(", ".join(f"{key} {value}" for key, value in values.items())))
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        state.history = [*state.history, {"time": when, "event": event, **values}][-MAX_HISTORY:]


def _read_state(path: Path) -> DeviceState | Literal["missing", "damaged"]:
    try:
        sealed = path.read_bytes()
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        if error.errno in _DAMAGE:
            return "damaged"
        raise StorageError(f"state {path}: {(error.strerror or str(error)).lower()}") from error
    try:
        return DeviceState.model_validate(json.loads(unseal_bytes(sealed, path, "state", STATE_VERSION, TrustError)))
    except (TrustError, ValueError, ValidationError):
        return "damaged"


def rollback(folder: StateFolder, *, wait_s: float = 0.0) -> DeviceState:
    """Switch to the other slot, refuse the adapter that ran, and return the new state.

    Args:
        folder: State folder of the device.
        wait_s: Maximum seconds to wait for an agent that visits the repository.

    Raises:
        SettingsError: The other slot holds no adapter that may run, or another agent uses the folder.
        StorageError: The state cannot be written.
    """
    with folder.locked(wait_s=wait_s):
        state = folder.load()
        before, other = state.running, state.idle_slot
        if before is None or other not in state.slots:
            raise SettingsError(f"{folder.folder}: no earlier adapter to roll back to")
        target = state.slots[other]
        if target.digest in state.bad:
            raise SettingsError(
                f"{folder.folder}: release {target.version} in slot {other} was refused or rolled back before; "
                "no earlier adapter to roll back to"
            )
        state.refuse(before.digest)
        state.active = other
        folder.save(state, "rolled back", version=before.version, to=target.version)
        return state
