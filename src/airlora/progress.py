"""Reporting of a run's progress: silently, or live in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

__all__ = ["LiveProgress", "ProgressReporter", "SilentProgress"]


class ProgressReporter(Protocol):
    """Receiver of a run's progress."""

    def phase(self, title: str, total: int, done: int = 0) -> None:
        """Begin a phase.

        Args:
            title: Name of the phase.
            total: Number of steps.
            done: Number of steps already taken, for a resumed run.
        """
        ...

    def step(self, done: int, values: Mapping[str, Any]) -> None:
        """Report a step of the phase.

        Args:
            done: Number of steps taken.
            values: Numbers to show by name.
        """
        ...

    def show(self, values: Mapping[str, Any]) -> None:
        """Show further numbers by name, such as those of an evaluation."""
        ...


class SilentProgress:
    """Reporter that shows nothing."""

    def phase(self, title: str, total: int, done: int = 0) -> None:
        """Do nothing."""

    def step(self, done: int, values: Mapping[str, Any]) -> None:
        """Do nothing."""

    def show(self, values: Mapping[str, Any]) -> None:
        """Do nothing."""


class LiveProgress:
    """Reporter that draws a progress bar and the latest numbers several times per second.

    Args:
        console: Console to draw on. If it is no terminal, one line per phase is written instead.
    """

    SMOOTHED = frozenset({"reward", "loss", "mean rank", "share of deadline"})
    """Names of numbers that are shown as an exponential moving average."""

    MEMORY = 0.95
    """Weight of the previous average."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: Any = None
        self._values: dict[str, Any] = {}
        self._live = Live(console=console, refresh_per_second=4, transient=False, get_renderable=self._draw)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live.is_started:
            self._live.stop()

    def phase(self, title: str, total: int, done: int = 0) -> None:
        """Begin the progress bar of a phase; see `ProgressReporter`."""
        if not self._console.is_terminal:
            self._console.print(f"{title}: {total} steps" + (f", {done} already taken" if done else ""))
        self._values = {}
        self._task = self._bar.add_task(title, total=total, completed=done)

    def step(self, done: int, values: Mapping[str, Any]) -> None:
        """Advance the progress bar and update the numbers; see `ProgressReporter`."""
        if self._task is not None:
            self._bar.update(self._task, completed=done)
        for key, value in values.items():
            old = self._values.get(key)
            if key in self.SMOOTHED and isinstance(old, float):
                value = self.MEMORY * old + (1.0 - self.MEMORY) * value
            self._values[key] = value

    def show(self, values: Mapping[str, Any]) -> None:
        """Update further numbers; see `ProgressReporter`."""
        self._values.update(values)

    def _draw(self) -> Group:
        table = Table.grid(padding=(0, 2))
        cells = [Text.assemble((key, "dim"), f" {_format(value)}") for key, value in self._values.items()]
        for start in range(0, len(cells), 5):
            table.add_row(*cells[start : start + 5])
        return Group(self._bar, table)


def _format(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
