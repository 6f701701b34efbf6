"""The adapter in a running model: swapped between two forward passes, whole or not at all."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from airlora.adapters import AdaptedModel, FfnUpdate, LowRankUpdate, base_fingerprint, inject, install_updates
from airlora.codec import DecodedStream, StreamHeader
from airlora.delivery.device.state import Installed, StateFolder
from airlora.errors import AdapterError, CodecError

__all__ = ["Attached", "attach"]

TRIES = 3
"""Times to read a slot that the agent replaces at that moment."""

LONGEST_WAIT_S = 60.0
"""Between attempts to take what could not be taken, if `check_every_s` is not longer."""


class Attached:
    """A model that follows the device's state.

    The model's `forward` is replaced by one that lets a swap wait until no pass is under way.

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
        self.error: Exception | None = None
        """Why the newest adapter was not taken; the one before computes on."""
        self._folder, self._check_every_s = StateFolder(Path(state_dir)), check_every_s
        self._adapted: AdaptedModel | None = None
        self._form: FfnUpdate = "weight"
        self._running: tuple[Installed, DecodedStream] | None = None
        self._fingerprints: dict[tuple[str, ...] | None, str] = {}
        self._own_heads: dict[str, Tensor] = {}
        self._failures = 0
        self._passes, self._is_swapping, self._free = 0, False, threading.Condition()
        self._thread = threading.local()
        self._refreshing = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._next_check_s = 0.0
        self.refresh()
        self._forward = model.forward
        model.forward = self._watched(model.forward)

    @property
    def version(self) -> int | None:
        """Of the release that the model computes with; None: none, the base model alone."""
        return None if self._running is None else self._running[0].version

    @property
    def num_bytes(self) -> int:
        """Of the stream that the model computes with."""
        return 0 if self._running is None else self._running[0].num_bytes

    def refresh(self) -> bool:
        """Take what the device runs now, and return whether that was something else.

        Forward passes that are under way end with what they began with; new ones wait.

        Raises:
            AirloraError: The adapter cannot be used; the one before computes on.
        """
        with self._refreshing:
            stamp, found = self._stamp(), self._read()
            is_new = found is not None and (self._running is None or found[0] != self._running[0])
            if found is not None and is_new:
                with self._alone():
                    self._swap(found)
            # Only now: what could not be taken is tried again.
            self._seen = stamp
            return is_new

    def detach(self) -> nn.Module:
        """Take the adapter out and return the model, with the head that it came with.

        Raises:
            AdapterError: Called from within a forward pass.
        """
        with self._refreshing, self._alone():
            self.model.forward = self._forward
            self._next_check_s = float("inf")
            self._take_out()
            self._running = None
        return self.model

    def _watched(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def watched(*arguments: Any, **options: Any) -> Any:
            self._look()
            with self._passing():
                return forward(*arguments, **options)

        return watched

    @contextmanager
    def _passing(self) -> Iterator[None]:
        """Count a pass, and let one that has not begun wait for a swap."""
        depth = self._depth
        with self._free:
            # A pass within a pass must not wait for what waits for the outer one.
            self._free.wait_for(lambda: depth > 0 or not self._is_swapping)
            self._passes += 1
        self._thread.depth = depth + 1
        try:
            yield
        finally:
            self._thread.depth = depth
            with self._free:
                self._passes -= 1
                self._free.notify_all()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold back new passes, and wait for those that are under way."""
        if self._depth:
            raise AdapterError("the adapter cannot be changed from within a forward pass")
        with self._free:
            self._is_swapping = True
            try:
                self._free.wait_for(lambda: self._passes == 0)
                yield
            finally:
                self._is_swapping = False
                self._free.notify_all()

    @property
    def _depth(self) -> int:
        """Of passes within passes, in this thread."""
        return int(getattr(self._thread, "depth", 0))

    def _look(self) -> None:
        """See whether there is something new, if it is time to and nobody else is looking."""
        now = time.monotonic()
        if now < self._next_check_s or self._depth or self._refreshing.locked():
            return
        self._next_check_s = now + self._check_every_s
        if self._stamp() == self._seen:
            return
        try:
            self.refresh()
        except Exception as error:
            # A pass must not fail because of what comes over the air, whatever that is, nor for want of memory for it.
            self.error, self._failures = error, self._failures + 1
            wait_s = min(LONGEST_WAIT_S, self._check_every_s * 2.0 ** min(self._failures, 30))
            self._next_check_s = now + max(self._check_every_s, wait_s)
        else:
            self.error, self._failures = None, 0

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

    def _swap(self, found: tuple[Installed, DecodedStream]) -> None:
        """Compute with what was found, or on with what was there before."""
        before = self._running
        try:
            self._install(found[1])
        except BaseException:
            self._running = None
            if before is not None:
                self._install(before[1])
            else:
                self._take_out()
            self._running = before
            raise
        self._running = found

    def _install(self, decoded: DecodedStream) -> None:
        header = decoded.header
        chosen = header.metadata.get("set", {})
        if not isinstance(chosen, dict):
            raise AdapterError(f"adapter: its header has settings {chosen!r}: allowed is an object")
        targets, heads = (_module_names(chosen, name) for name in ("target_modules", "head_modules"))
        form = _ffn_update(chosen)
        self._verify_base(header.base_fingerprint, heads)
        updates = {name: LowRankUpdate(U, V) for name, (U, V) in decoded.modules.items()}
        if self._adapted is None or form != self._form or not _has_room(self._adapted, header):
            self._take_out()
            adapted = inject(
                self.model,
                r_max=header.r_max,
                seed=0,
                scale=1.0,
                target_modules=targets,
                head_modules=heads,
                ffn_update=form,
            )
            self._adapted, self._form = adapted, form
            adapted.set_ranks([0] * len(adapted.shapes))
            self._own_heads = {name: value.detach().clone() for name, value in adapted.head_state().items()}
        # What a release does not send is the model's own, not that of the release before.
        own = {name: value.float().cpu().numpy() for name, value in self._own_heads.items()}
        install_updates(self._adapted, updates, {**own, **decoded.tensors})

    def _take_out(self) -> None:
        """Let the model compute as it did before it was attached."""
        if self._adapted is None:
            return
        with torch.no_grad():
            for name, value in self._adapted.head_state().items():
                value.copy_(self._own_heads[name])
        self._adapted.eject()
        self._adapted, self._own_heads = None, {}

    def _verify_base(self, wanted: str, heads: list[str] | None) -> None:
        """Raise `AdapterError` unless the model is the one that the adapter was made for."""
        key = None if heads is None else tuple(heads)
        if key not in self._fingerprints:
            self._fingerprints[key] = base_fingerprint(self.model, head_modules=heads)
        if self._fingerprints[key] != wanted:
            raise AdapterError(
                f"adapter: made for the base model {wanted[:12]}, this is {self._fingerprints[key][:12]}"
            )


def _ffn_update(chosen: Mapping[str, Any]) -> FfnUpdate:
    """Return where a release's updates of the FFN are."""
    found = chosen.get("adapter.ffn_update", "weight")
    if found in get_args(FfnUpdate):
        return cast(FfnUpdate, found)
    raise AdapterError(f"adapter: its header has ffn_update = {found!r}: allowed is 'weight' or 'residual'")


def _module_names(chosen: Mapping[str, Any], name: str) -> list[str] | None:
    """Return the endings of modules' names that a release was made with; None: those that are usual for the model."""
    found = chosen.get(f"adapter.{name}")
    if found is not None and not (isinstance(found, list) and all(isinstance(part, str) for part in found)):
        raise AdapterError(f"adapter: its header has {name} = {found!r}: allowed is a list of names")
    return found


def _has_room(adapted: AdaptedModel, header: StreamHeader) -> bool:
    """Whether a release fits the layers that are in the model already."""
    return (
        adapted.r_max >= header.r_max
        and adapted.shapes == dict(header.modules)
        and set(adapted.head_state()) >= set(header.tensors)
    )


def attach(model: nn.Module, state_dir: Path | str, *, check_every_s: float = 1.0) -> Attached:
    """Let a model compute with whatever the device runs, from now on; see `Attached`."""
    return Attached(model, state_dir, check_every_s=check_every_s)
