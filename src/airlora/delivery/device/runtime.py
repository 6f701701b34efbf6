"""Adapter of a running model: it follows the device's state and is replaced between two forward passes.

States of an attached model, and what changes them:

| state | event | next state |
|---|---|---|
| base model | the device installs its first adapter | adapter |
| adapter | the device switches to another adapter | the other adapter |
| adapter | the other adapter cannot be installed | the same adapter; `error` is set and the next attempt is delayed |
| adapter | neither can be installed, for lack of memory | no adapter counts as installed; the next pass tries again |
| any | `detach` | base model, for good |

States of the gate that keeps forward passes and replacements apart:

| state | event | next state |
|---|---|---|
| open | a pass begins or ends | open |
| open | a replacement is requested | draining: a pass that begins waits, unless it is nested in another |
| draining | the last pass ends | closed: the adapter is replaced |
| closed | the replacement ends | open: waiting passes begin |
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from airlora.adapters import (
    AdaptedModel,
    FfnUpdate,
    LowRankUpdate,
    base_fingerprint,
    draw_modules,
    install_updates,
)
from airlora.codec import DecodedStream, StreamHeader
from airlora.delivery.device.state import InstalledAdapter, StateFolder
from airlora.delivery.device.transport import printable
from airlora.errors import AdapterError, CodecError
from airlora.identity import BaseLevel, is_same_base, parse_level
from airlora.packing import adapt_for_stream, drawn_modules, head_modules_of, update_form

__all__ = ["AttachedModel", "attach"]

log = logging.getLogger(__name__)

MAX_READ_ATTEMPTS = 3
"""Attempts to read a slot that the agent replaces at that moment."""

MAX_RETRY_S = 60.0
"""Upper bound of the seconds between two attempts to install an adapter, unless `check_every_s` is larger."""


class AttachedModel:
    """Model that computes with the adapter that the device runs.

    The model's `forward` method is replaced by one that looks for a new adapter and waits while it is installed.

    Args:
        model: Classifier or causal language model of `transformers`. Its projections are replaced by layers that add
            the adapter's update.
        state_dir: State folder of the device.
        check_every_s: Minimum seconds between two looks for a new adapter.
        accept: Level at which the model has to be that of the release, see `airlora.identity`.

    Attributes:
        error: Error of the last attempt to install an adapter. None if it succeeded.

    Raises:
        AdapterError: The device's adapter belongs to another base model, or the model has other modules.
        ModelError: The architecture of the model is unknown, or the model carries an adapter already.
    """

    def __init__(
        self, model: nn.Module, state_dir: Path | str, *, check_every_s: float = 1.0, accept: BaseLevel = "bfloat16"
    ) -> None:
        self.model = model
        self._accept = parse_level(accept)
        self.error: Exception | None = None
        self._folder, self._check_every_s = StateFolder(Path(state_dir)), check_every_s
        self._adapted: AdaptedModel | None = None
        self._form: FfnUpdate = "weight"
        self._running: tuple[InstalledAdapter, DecodedStream] | None = None
        self._fingerprints: dict[tuple[str, ...] | None, str] = {}
        self._base_head: dict[str, Tensor] = {}
        self._drawn: dict[str, dict[str, Tensor]] = {}
        self._num_failures = 0
        self._gate, self._refresh_lock = _PassGate(), threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._next_check_s = 0.0
        self.refresh()
        self._forward = model.forward
        model.forward = self._wrap(model.forward)

    @property
    def version(self) -> int | None:
        """Version of the release that the model computes with. None for the base model alone."""
        return None if self._running is None else self._running[0].version

    @property
    def num_bytes(self) -> int:
        """Size in bytes of the prefix that the model computes with. 0 for the base model alone."""
        return 0 if self._running is None else self._running[0].num_bytes

    def refresh(self) -> bool:
        """Install the adapter that the device runs now, and return whether it is another one.

        Forward passes that have begun finish with the adapter that they began with. New passes wait.

        Raises:
            AirloraError: The adapter cannot be used. The model keeps the one before.
        """
        with self._refresh_lock:
            stamp, found = self._stamp(), self._read()
            is_new = found is not None and (self._running is None or found[0] != self._running[0])
            if found is not None and is_new:
                with self._gate.exclusive():
                    self._swap(found)
                log.info("computing with release %d, %d bytes", found[0].version, found[0].num_bytes)
            # After the installation, so that a failed one is repeated.
            self._seen = stamp
            return is_new

    def detach(self) -> nn.Module:
        """Remove the adapter and return the model with its own classification head.

        Raises:
            AdapterError: The call comes from within a forward pass.
        """
        with self._refresh_lock, self._gate.exclusive():
            self.model.forward = self._forward
            self._next_check_s = float("inf")
            self._eject()
            self._undo_draw()
            self._running = None
        return self.model

    def _wrap(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self._refresh_if_due()
            with self._gate.passing():
                return forward(*arguments, **options)

        return wrapped

    def _refresh_if_due(self) -> None:
        now_s = time.monotonic()
        if now_s < self._next_check_s or self._gate.depth or self._refresh_lock.locked():
            return
        self._next_check_s = now_s + self._check_every_s
        if self._stamp() == self._seen:
            return
        try:
            self.refresh()
        except Exception as error:
            # A forward pass must not fail because of a new adapter, whatever is wrong with it.
            self.error, self._num_failures = error, self._num_failures + 1
            wait_s = min(MAX_RETRY_S, self._check_every_s * 2.0 ** min(self._num_failures, 30))
            self._next_check_s = now_s + max(self._check_every_s, wait_s)
            log.warning("cannot install the adapter, next attempt in %.0f s: %s", wait_s, printable(error))
        else:
            self.error, self._num_failures = None, 0

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = (self._folder.folder / "state.json").stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    def _read(self) -> tuple[InstalledAdapter, DecodedStream] | None:
        for _ in range(MAX_READ_ATTEMPTS):
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

    def _swap(self, found: tuple[InstalledAdapter, DecodedStream]) -> None:
        before = self._running
        try:
            self._install(found[1])
        except BaseException:
            self._running = None
            if before is not None:
                self._install(before[1])
            else:
                self._eject()
                self._undo_draw()
            self._running = before
            raise
        self._running = found

    def _install(self, decoded: DecodedStream) -> None:
        header = decoded.header
        form = update_form(header)
        self._draw(drawn_modules(header))
        self._verify_base(header.base_fingerprint, head_modules_of(header))
        updates = {name: LowRankUpdate(U, V) for name, (U, V) in decoded.modules.items()}
        if self._adapted is None or form != self._form or not _fits(self._adapted, header):
            self._eject()
            adapted = adapt_for_stream(self.model, header)
            self._adapted, self._form = adapted, form
            self._base_head = {name: value.detach().clone() for name, value in adapted.head_state().items()}
        # A tensor that the release does not contain is the model's own, not that of the release before.
        own = {name: value.float().cpu().numpy() for name, value in self._base_head.items()}
        install_updates(self._adapted, updates, {**own, **decoded.tensors})

    def _draw(self, names: list[str]) -> None:
        """Give poolers that the files of the base model lack the weights that the sender has."""
        if tuple(names) == tuple(self._drawn):
            return
        modules = dict(self.model.named_modules())
        if unknown := [name for name in names if name not in modules]:
            raise AdapterError(f"adapter: draws the module {unknown[0]}, which the model does not have")
        self._undo_draw()
        self._drawn = {
            name: {key: value.clone() for key, value in modules[name].state_dict().items()} for name in names
        }
        draw_modules(self.model, names)
        self._fingerprints.clear()

    def _undo_draw(self) -> None:
        for name, state in self._drawn.items():
            self.model.get_submodule(name).load_state_dict(state)
        if self._drawn:
            draw_modules(self.model, ())
        self._drawn = {}
        self._fingerprints.clear()

    def _eject(self) -> None:
        if self._adapted is None:
            return
        with torch.no_grad():
            for name, value in self._adapted.head_state().items():
                value.copy_(self._base_head[name])
        self._adapted.eject()
        self._adapted, self._base_head = None, {}

    def _verify_base(self, wanted: str, heads: list[str] | None) -> None:
        key = None if heads is None else tuple(heads)
        if key not in self._fingerprints:
            self._fingerprints[key] = base_fingerprint(self.model, head_modules=heads)
        if not is_same_base(wanted, self._fingerprints[key], self._accept):
            raise AdapterError(
                f"adapter: made for the base model {wanted[:12]}, this is {self._fingerprints[key][:12]}"
            )


def _fits(adapted: AdaptedModel, header: StreamHeader) -> bool:
    return (
        adapted.r_max >= header.r_max
        and adapted.shapes == dict(header.modules)
        and set(adapted.head_state()) >= set(header.tensors)
    )


class _PassGate:
    """Gate that lets either any number of forward passes or one replacement through."""

    def __init__(self) -> None:
        self._changed, self._num_passes, self._is_closing = threading.Condition(), 0, False
        self._local = threading.local()

    @property
    def depth(self) -> int:
        """Number of nested passes of this thread."""
        return int(getattr(self._local, "depth", 0))

    @contextmanager
    def passing(self) -> Iterator[None]:
        depth = self.depth
        with self._changed:
            # A nested pass must not wait for a replacement that waits for the outer pass.
            self._changed.wait_for(lambda: depth > 0 or not self._is_closing)
            self._num_passes += 1
        self._local.depth = depth + 1
        try:
            yield
        finally:
            self._local.depth = depth
            with self._changed:
                self._num_passes -= 1
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        if self.depth:
            raise AdapterError("the adapter cannot be replaced from within a forward pass")
        with self._changed:
            self._is_closing = True
            try:
                self._changed.wait_for(lambda: self._num_passes == 0)
                yield
            finally:
                self._is_closing = False
                self._changed.notify_all()


def attach(
    model: nn.Module, state_dir: Path | str, *, check_every_s: float = 1.0, accept: BaseLevel = "bfloat16"
) -> AttachedModel:
    """Return a model that computes with the adapter that the device runs from now on.

    Args:
        model: Classifier or causal language model of `transformers`. It is changed in place.
        state_dir: State folder of the device.
        check_every_s: Minimum seconds between two looks for a new adapter.
        accept: Level at which the model has to be that of the release: "exact", or "bfloat16" for weights that are
            equal after rounding to bfloat16.

    Raises:
        AdapterError: The device's adapter belongs to another base model, or the model has other modules.
        ModelError: The architecture of the model is unknown, or the model carries an adapter already.
        SettingsError: The level is unknown.
    """
    return AttachedModel(model, state_dir, check_every_s=check_every_s, accept=accept)
