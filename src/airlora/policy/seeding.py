"""Random generators that belong to one policy. No function here reads or changes a global generator."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import numpy as np
import torch

__all__ = ["child_seeds", "numpy_state", "restore_numpy", "restore_torch", "seeded_init", "torch_generator"]


def child_seeds(seed: int, count: int) -> list[int]:
    """Return `count` independent seeds derived from one seed."""
    return [int(state) for state in np.random.SeedSequence(seed).generate_state(count)]


@contextlib.contextmanager
def seeded_init(seed: int) -> Iterator[None]:
    """Initialise the PyTorch layers that are built in this block from a seed, and restore the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def torch_generator(seed: int) -> torch.Generator:
    """Return a PyTorch generator on the CPU with this seed."""
    return torch.Generator().manual_seed(seed)


def restore_torch(generator: torch.Generator, state: torch.Tensor) -> None:
    """Set a PyTorch generator to a value of `generator.get_state()`."""
    generator.set_state(state.cpu())


def numpy_state(generator: np.random.Generator) -> str:
    """Return the state of a NumPy generator as JSON."""
    return json.dumps(generator.bit_generator.state)


def restore_numpy(generator: np.random.Generator, state: str) -> None:
    """Set a NumPy generator to a value of `numpy_state`."""
    generator.bit_generator.state = json.loads(state)
