"""Ctrl-C and SIGTERM end a run between two steps, with everything saved."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Self

from airlora.errors import AirloraError

__all__ = ["Interrupted", "Interrupts"]


class Interrupted(AirloraError):  # noqa: N818 (no error: the user wished it)
    """A run was ended by a signal and is saved.

    Args:
        message: Where it is saved and how to go on.
        signal_number: Of the signal; the exit code is 128 + it, as shells have it.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Interrupts:
    """While entered, remembers SIGINT and SIGTERM instead of dying by them; a second one kills at once.

    Outside the main thread signals cannot be taken; then nothing is changed.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        try:
            for number in self.SIGNALS:
                self._before[number] = signal.signal(number, self._receive)
        except ValueError:  # not the main thread
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 (the signature is Python's)
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
