"""Randomness that belongs to one policy: nothing here reads or leaves a mark on a global generator."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import numpy as np
import torch

__all__ = ["child_seeds", "numpy_state", "restore_numpy", "restore_torch", "seeded_init", "torch_generator"]


def child_seeds(seed: int, count: int) -> list[int]:
    """Return seeds for `count` parts, so that their draws have nothing in common."""
    return [int(state) for state in np.random.SeedSequence(seed).generate_state(count)]


@contextlib.contextmanager
def seeded_init(seed: int) -> Iterator[None]:
    """Make layers built in this block start from `seed`; the global generator is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def torch_generator(seed: int) -> torch.Generator:
    """Return a CPU generator that starts from `seed`."""
    return torch.Generator().manual_seed(seed)


def restore_torch(generator: torch.Generator, state: torch.Tensor) -> None:
    """Bring a generator to where `generator.get_state()` found it."""
    generator.set_state(state.cpu())


def numpy_state(generator: np.random.Generator) -> str:
    """Return where a NumPy generator stands, as one line of text."""
    return json.dumps(generator.bit_generator.state)


def restore_numpy(generator: np.random.Generator, state: str) -> None:
    """Bring a NumPy generator to where `numpy_state` found it."""
    generator.bit_generator.state = json.loads(state)
