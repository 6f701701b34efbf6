"""Kinds of trials for tests of the runner, importable by other processes. Each attempt leaves a file in a folder."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from airlora.errors import DataError
from airlora.reproduce.trial import TrialKind, TrialResult


def attempts(folder: Path, seed: int | str = "*", node: str = "*") -> int:
    """Return the number of attempts to run the trials of a seed on a node."""
    return len(processes(folder, seed, node))


def processes(folder: Path, seed: int | str = "*", node: str = "*") -> list[int]:
    """Return the ids of the processes of these attempts."""
    return [int(path.name.split(".")[2]) for path in folder.glob(f"{seed}.{node}.*")]


def node_name() -> str:
    """Return the id of the Ray node of this process, or "local"."""
    ray = sys.modules.get("ray")
    return str(ray.get_runtime_context().get_node_id()) if ray and ray.is_initialized() else "local"


def draw(options: Mapping[str, Any], seed: int, cache: Path, count_step: Callable[[], None]) -> TrialResult:
    """Return random numbers after some seconds, except on the node that a file names: it never gets to the end."""
    folder = Path(options["folder"])
    (folder / f"{seed}.{node_name()}.{os.getpid()}.{time.time_ns()}").touch()
    assert cache.is_dir()
    if (doomed := folder / "doomed").exists() and doomed.read_text() == node_name():
        time.sleep(30.0)
    time.sleep(options.get("seconds", 0.0))
    count_step()
    numbers = np.random.default_rng(seed).standard_normal(3)
    return {"numbers": tuple(numbers.tolist()), "threads": torch.get_num_threads()}


def fail(options: Mapping[str, Any], seed: int, cache: Path, count_step: Callable[[], None]) -> TrialResult:
    """Draw in the end, after attempts that end with an error."""
    result = draw(options, seed, cache, count_step)
    if attempts(Path(options["folder"]), seed) <= options["failures"]:
        raise OSError("disk on fire")
    return result


def die(options: Mapping[str, Any], seed: int, cache: Path, count_step: Callable[[], None]) -> TrialResult:
    """Draw in the end, after attempts whose process is killed."""
    result = draw(options, seed, cache, count_step)
    if attempts(Path(options["folder"]), seed) <= options["failures"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def interrupt(options: Mapping[str, Any], seed: int, cache: Path, count_step: Callable[[], None]) -> TrialResult:
    """Draw in the second attempt. The first one is interrupted by Ctrl-C."""
    result = draw(options, seed, cache, count_step)
    if attempts(Path(options["folder"]), seed) == 1:
        raise KeyboardInterrupt
    return result


def refuse(options: Mapping[str, Any], seed: int, cache: Path, count_step: Callable[[], None]) -> TrialResult:
    """Refuse the options."""
    draw(options, seed, cache, count_step)
    raise DataError.of("data.train", "nowhere.tsv", "an existing file")


def not_finite(options: Mapping[str, Any], seed: int, cache: Path, count_step: Callable[[], None]) -> TrialResult:
    """Return a number that JSON lacks."""
    return draw(options, seed, cache, count_step) | {"loss": float("nan")}


KINDS: dict[str, TrialKind] = {kind.__name__: kind for kind in (draw, fail, die, interrupt, refuse, not_finite)}
