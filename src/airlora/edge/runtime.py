"""The adapter in a running model: swapped between two forward passes, whole or not at all."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from torch import nn

from airlora.adapters import AdaptedModel, LowRankUpdate, base_fingerprint, inject, install_updates
from airlora.codec import DecodedStream
from airlora.edge.state import Installed, StateFolder
from airlora.errors import AdapterError, AirloraError, CodecError

__all__ = ["Attached", "attach"]

TRIES = 3
"""Times to read a slot that the agent replaces at that moment."""


class Attached:
    """A model that follows the device's state.

    Args:
        model: A classifier of `transformers`; its layers are replaced by ones that add the update.
        state_dir: Folder that the agent keeps.
        check_every_s: How often, at most, a forward pass looks whether there is something new.

    Raises:
        AdapterError: The state's adapter belongs to another base model, or the model has other modules.
        ModelError: The model is of an unknown kind, or carries an adapter already.
    """

    def __init__(self, model: nn.Module, state_dir: Path | str, *, check_every_s: float = 1.0) -> None:
        self.model = model
        self.error: AirloraError | None = None
        """Why the newest adapter was not taken; the one before computes on."""
        self._folder, self._check_every_s = StateFolder(Path(state_dir)), check_every_s
        self._adapted: AdaptedModel | None = None
        self._running: Installed | None = None
        self._fingerprints: dict[tuple[str, ...] | None, str] = {}
        self._passes, self._free = 0, threading.Condition()
        self._refreshing = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._next_check_s = 0.0
        self.refresh()
        self._hooks = [
            model.register_forward_pre_hook(self._before),
            model.register_forward_hook(self._after, always_call=True),
        ]

    @property
    def version(self) -> int | None:
        """Of the release that the model computes with; None: none, the base model alone."""
        return None if self._running is None else self._running.version

    @property
    def num_bytes(self) -> int:
        """Of the stream that the model computes with."""
        return 0 if self._running is None else self._running.num_bytes

    def refresh(self) -> bool:
        """Take what the device runs now, and return whether that was something else.

        Forward passes that are under way end with what they began with; new ones wait.

        Raises:
            AirloraError: The adapter cannot be used; the one before computes on.
        """
        with self._refreshing:
            self._seen = self._stamp()
            found = self._read()
            if found is None or found[0] == self._running:
                return False
            installed, decoded = found
            with self._free:
                self._free.wait_for(lambda: self._passes == 0)
                # Nobody passes while this lock is held.
                self._install(decoded)
                self._running = installed
            return True

    def detach(self) -> nn.Module:
        """Take the adapter out and return the model; a head that was sent stays."""
        for hook in self._hooks:
            hook.remove()
        with self._free:
            self._free.wait_for(lambda: self._passes == 0)
            if self._adapted is not None:
                self._adapted.eject()
                self._adapted = None
        return self.model

    def _before(self, _module: nn.Module, _inputs: Any) -> None:
        now = time.monotonic()
        if now >= self._next_check_s:
            self._next_check_s = now + self._check_every_s
            if self._stamp() != self._seen:
                try:
                    self.refresh()
                    self.error = None
                except AirloraError as error:
                    # A pass must not fail because of what comes over the air.
                    self.error = error
        with self._free:
            self._passes += 1

    def _after(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        with self._free:
            self._passes -= 1
            self._free.notify_all()

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = (self._folder.folder / "state.json").stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    def _read(self) -> tuple[Installed, DecodedStream] | None:
        """Return what the device runs; None: nothing yet."""
        for _ in range(TRIES):
            state = self._folder.load()
            if state.active is None or state.running is None:
                return None
            try:
                _, decoded = self._folder.read_slot(state.active)
            except CodecError:
                continue
            if decoded.digest == state.running.digest:
                return state.running, decoded
        raise AdapterError(f"{self._folder.folder}: the adapter changes faster than it can be read")

    def _install(self, decoded: DecodedStream) -> None:
        header = decoded.header
        chosen = header.metadata.get("set", {})
        targets, heads = chosen.get("adapter.target_modules"), chosen.get("adapter.head_modules")
        self._verify_base(header.base_fingerprint, heads)
        if self._adapted is not None and (self._adapted.r_max < header.r_max or self._adapted.scale != 1.0):
            self._adapted.eject()
            self._adapted = None
        if self._adapted is None:
            self._adapted = inject(
                self.model, r_max=header.r_max, seed=0, scale=1.0, target_modules=targets, head_modules=heads
            )
            self._adapted.set_ranks([0] * len(self._adapted.shapes))
        install_updates(
            self._adapted, {name: LowRankUpdate(U, V) for name, (U, V) in decoded.modules.items()}, decoded.tensors
        )

    def _verify_base(self, wanted: str, heads: list[str] | None) -> None:
        """Raise `AdapterError` unless the model is the one that the adapter was made for."""
        key = None if heads is None else tuple(heads)
        if key not in self._fingerprints:
            if self._adapted is not None:
                self._adapted.eject()
                self._adapted = None
            self._fingerprints[key] = base_fingerprint(self.model, head_modules=heads)
        if self._fingerprints[key] != wanted:
            raise AdapterError(
                f"adapter: made for the base model {wanted[:12]}, this is {self._fingerprints[key][:12]}"
            )


def attach(model: nn.Module, state_dir: Path | str, *, check_every_s: float = 1.0) -> Attached:
    """Let a model compute with whatever the device runs, from now on; see `Attached`."""
    return Attached(model, state_dir, check_every_s=check_every_s)
