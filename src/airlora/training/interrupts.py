"""Handling of SIGINT (Ctrl-C) and SIGTERM: a run ends between two steps, after saving its state."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Self

from airlora.errors import AirloraError

__all__ = ["InterruptHandler", "Interrupted"]


class Interrupted(AirloraError):  # noqa: N818 (the user asked for it)
    """A run was ended by a signal, and its state is saved.

    Args:
        message: Location of the state and the command that resumes the run.
        signal_number: Number of the signal. The exit code is 128 plus this number, as in shells.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number

    def __reduce__(self) -> tuple[type[Self], tuple[str, int]]:
        """Return what another process needs to make this exception again."""
        return type(self), (str(self), self.exit_code - 128)


class InterruptHandler:
    """Context manager that stores SIGINT or SIGTERM in `received` instead of ending the process.

    A second signal has its usual effect. Outside the main thread, where Python allows no handlers, it does nothing.
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

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 (Python's signature)
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
