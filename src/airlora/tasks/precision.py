"""Device, number of threads and floating-point precision of passes through a model."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from airlora.errors import SettingsError

__all__ = ["Autocast", "ComputeOptions", "available_threads", "pick_autocast", "pick_device", "set_threads"]

Autocast = Callable[[], AbstractContextManager[Any]]
"""Factory of the context in which forward passes run."""


def pick_device(name: str, setting: str = "device") -> torch.device:
    """Return the device called `name`. `auto` is CUDA if available, else the CPU.

    Args:
        name: Name of the device.
        setting: Setting that the name is the value of, for the error message.

    Raises:
        SettingsError: The name is no device, or the device is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError.of(setting, name, "`auto`, `cpu`, or a device that torch has, such as `cuda:0`") from error
    return device


def pick_autocast(precision: str, device: torch.device) -> Autocast:
    """Return a factory of the context for forward passes in the given precision.

    Args:
        precision: `float32`, `bfloat16`, or `auto`, which is bfloat16 if the hardware multiplies it natively.
        device: Device of the model.
    """
    fast = (
        torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        if device.type == "cuda"
        else torch.cpu._is_avx512_bf16_supported()
    )
    if precision == "bfloat16" or (precision == "auto" and fast):
        return partial(torch.autocast, device.type, dtype=torch.bfloat16)
    return nullcontext


@dataclass(frozen=True, slots=True)
class ComputeOptions:
    """Device, batch sizes and precision of passes over a data set.

    Args:
        device: Device of the model.
        seed: Seed of the order of batches and of random numbers.
        batch_size: Number of samples per forward and backward pass.
        eval_batch_size: Number of samples per forward pass without gradients.
        precision: `float32`, `bfloat16` or `auto`, see `pick_autocast`.
    """

    device: torch.device
    seed: int = 0
    batch_size: int = 32
    eval_batch_size: int = 128
    precision: str = "auto"


def set_threads(num_threads: int) -> None:
    """Set the number of CPU threads of torch.

    Args:
        num_threads: Number of threads. 0 stands for all cores available to this process, or for `OMP_NUM_THREADS` if
            that is smaller.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    available = available_threads()
    # OpenMP ignores a value that is not a positive integer, too. Ten digits are more than any number of cores.
    is_limit = wanted.isascii() and wanted.isdecimal() and len(wanted) < 10 and int(wanted) > 0
    torch.set_num_threads(num_threads or (min(int(wanted), available) if is_limit else available))


def available_threads() -> int:
    """Return the number of CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
