"""Jobs that a spawned process can import; test modules themselves have no importable name."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch

from airlora.errors import TrainingError

STEP_S = 0.01
LONG_STEPS = 9_000
"""A minute and a half."""


def count(value: int, num_steps: int, seconds: float, count_step: Callable[[], None]) -> int:
    """Return `value` after some time and steps."""
    time.sleep(seconds)
    for _ in range(num_steps):
        count_step()
    return value


def num_threads(count_step: Callable[[], None]) -> tuple[int, int]:
    """Return this process's id and torch's threads in it."""
    count_step()
    return os.getpid(), torch.get_num_threads()


def long(folder: Path, name: str, count_step: Callable[[], None]) -> None:
    """Leave one file at the start and one at the end of a very long way."""
    (folder / f"{name} began").touch()
    for _ in range(LONG_STEPS):
        time.sleep(STEP_S)
        count_step()
    (folder / f"{name} ended").touch()


def busy(folder: Path, name: str, count_step: Callable[[], None]) -> None:
    """Be at one step for a very long time."""
    (folder / f"{name} began").write_text(str(os.getpid()))
    time.sleep(LONG_STEPS * STEP_S)
    (folder / f"{name} ended").touch()


def fail(after: Path, count_step: Callable[[], None]) -> None:
    """Raise an error as soon as a file is there."""
    _wait_for(after)
    count_step()
    raise TrainingError("loss = nan at step 1")


def die(after: Path, count_step: Callable[[], None]) -> None:
    """Be killed as soon as a file is there, as a system without memory kills."""
    _wait_for(after)
    count_step()
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(STEP_S)
