"""Back to the adapter before."""

from __future__ import annotations

from airlora.delivery.device.state import MAX_BAD, DeviceState, StateFolder
from airlora.errors import SettingsError

__all__ = ["rollback"]


def rollback(folder: StateFolder, *, wait_s: float = 0.0) -> DeviceState:
    """Let the device run what lies in the other slot, and never again what it ran; return the new state.

    Args:
        folder: What the device keeps.
        wait_s: For an agent that is at work to end its visit.

    Raises:
        SettingsError: The other slot holds nothing that can be run, or another agent is at work.
        StorageError: The state cannot be written.
    """
    with folder.locked(wait_s=wait_s):
        state = folder.load()
        other = state.idle_slot
        if state.running is None or other not in state.slots:
            raise SettingsError(f"{folder.folder}: no earlier adapter to go back to")
        if state.slots[other].digest in state.bad:
            raise SettingsError(
                f"{folder.folder}: release {state.slots[other].version} in slot {other} was refused or rolled back "
                "before; there is no other to go back to"
            )
        state.bad = [*state.bad, state.running.digest][-MAX_BAD:]
        gone, state.active = state.running.version, other
        folder.save(state, "rolled back", version=gone, to=state.slots[other].version)
        return state
