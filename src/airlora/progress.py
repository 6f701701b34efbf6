"""Who watches a run: nobody, or a live display in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

__all__ = ["LiveProgress", "SilentWatcher", "Watcher"]


class Watcher(Protocol):
    """What a run tells on its way."""

    def phase(self, title: str, total: int, done: int = 0) -> None:
        """A phase of `total` steps begins, `done` of them already taken."""
        ...

    def step(self, done: int, values: Mapping[str, Any]) -> None:
        """Step `done` of the phase was taken; `values` are numbers to show."""
        ...

    def show(self, values: Mapping[str, Any]) -> None:
        """Show further numbers, such as an evaluation's."""
        ...


class SilentWatcher:
    """Watches and says nothing."""

    def phase(self, title: str, total: int, done: int = 0) -> None:
        """Say nothing."""

    def step(self, done: int, values: Mapping[str, Any]) -> None:
        """Say nothing."""

    def show(self, values: Mapping[str, Any]) -> None:
        """Say nothing."""


class LiveProgress:
    """A bar and the latest numbers, redrawn a few times a second; smoothed where single steps are noisy.

    Args:
        console: Where to draw; standard error keeps standard output for results. On a stream that is no terminal, one
            line per phase is written instead.
    """

    SMOOTHED = frozenset({"reward", "loss", "mean rank", "share of deadline"})
    MEMORY = 0.95

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
        self._task = None
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
        """Begin a bar for the phase."""
        if not self._console.is_terminal:
            self._console.print(f"{title}: {total} steps" + (f", {done} already taken" if done else ""))
        self._values = {}
        self._task = self._bar.add_task(title, total=total, completed=done)  # type: ignore[assignment]

    def step(self, done: int, values: Mapping[str, Any]) -> None:
        """Move the bar and take in the numbers."""
        if self._task is not None:
            self._bar.update(self._task, completed=done)
        for key, value in values.items():
            old = self._values.get(key)
            if key in self.SMOOTHED and isinstance(old, float):
                value = self.MEMORY * old + (1.0 - self.MEMORY) * value
            self._values[key] = value

    def show(self, values: Mapping[str, Any]) -> None:
        """Take in further numbers."""
        self._values.update(values)

    def _draw(self) -> Group:
        table = Table.grid(padding=(0, 2))
        cells = [Text.assemble((key, "dim"), f" {_format(value)}") for key, value in self._values.items()]
        for start in range(0, len(cells), 5):
            table.add_row(*cells[start : start + 5])
        return Group(self._bar, table)


def _format(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
