"""Jobs that a spawned process can import. Test modules themselves cannot be imported by name."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch

from airlora.errors import TrainingError

STEP_S = 0.01
LONG_STEPS = 9_000
"""Number of steps of about 90 seconds in total."""


def count(value: int, num_steps: int, seconds: float, count_step: Callable[[], None]) -> int:
    """Return `value` after `seconds` and `num_steps`."""
    time.sleep(seconds)
    for _ in range(num_steps):
        count_step()
    return value


def num_threads(count_step: Callable[[], None]) -> tuple[int, int]:
    """Return the id of this process and its number of torch threads."""
    count_step()
    return os.getpid(), torch.get_num_threads()


def long(folder: Path, name: str, count_step: Callable[[], None]) -> None:
    """Write one file at the start and one at the end of 90 seconds of steps."""
    (folder / f"{name} began").touch()
    for _ in range(LONG_STEPS):
        time.sleep(STEP_S)
        count_step()
    (folder / f"{name} ended").touch()


def busy(folder: Path, name: str, count_step: Callable[[], None]) -> None:
    """Spend 90 seconds in one step."""
    (folder / f"{name} began").write_text(str(os.getpid()))
    time.sleep(LONG_STEPS * STEP_S)
    (folder / f"{name} ended").touch()


def fail(after: Path, count_step: Callable[[], None]) -> None:
    """Raise an error as soon as a file exists."""
    _wait_for(after)
    count_step()
    raise TrainingError("loss = nan at step 1")


def die(after: Path, count_step: Callable[[], None]) -> None:
    """Kill this process as soon as a file exists, like a system out of memory."""
    _wait_for(after)
    count_step()
    os.kill(os.getpid(), signal.SIGKILL)


def end_second(folder: Path, how: str, count_step: Callable[[], None]) -> str:
    """Return the second time. The first time, raise an error or kill this process after a step."""
    (folder / f"{how} {os.getpid()} {time.time_ns()}").touch()
    count_step()
    if len(list(folder.glob(f"{how} *"))) == 2:
        return how
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("not yet")


def _wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(STEP_S)
