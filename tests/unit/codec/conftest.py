"""Fixtures with small random adapters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from airlora.codec import DenseTensor, ModuleUpdate, StreamHeader
from airlora.ranks import ModuleShape

Source = tuple[StreamHeader, dict[str, ModuleUpdate], dict[str, DenseTensor]]


def make_source(
    *, layers: int = 2, rank: int = 4, d: int = 24, seed: int = 0, num_labels: int = 2, noise: float = 0.0
) -> Source:
    """Return header, components and dense tensors of a random adapter.

    Args:
        layers: Number of layers with two modules each.
        rank: Number of components per module.
        d: Width of the layers.
        seed: Seed of the random values.
        num_labels: Number of rows of the classification head.
        noise: Relative size of a random change of every vector.
    """
    generator = np.random.default_rng(seed)
    other = np.random.default_rng(seed + 1)
    shapes = {
        f"encoder.layer.{layer}.{name}": ModuleShape(d_in=d_in, d_out=d_out)
        for layer in range(layers)
        for name, d_out, d_in in (("attention.self.query", d, d), ("output.dense", d, 2 * d))
    }
    updates = {}
    for name, shape in shapes.items():
        singular = generator.lognormal(0, 0.5) * np.exp(-0.6 * np.arange(rank))
        U = generator.standard_normal((shape.d_out, rank)) * singular
        V = generator.standard_normal((rank, shape.d_in))
        U += noise * singular * other.standard_normal(U.shape)
        V += noise * other.standard_normal(V.shape)
        updates[name] = ModuleUpdate(U.astype(np.float32), V.astype(np.float32), singular**2)
    tensors = {
        "classifier.weight": DenseTensor(generator.standard_normal((num_labels, d)).astype(np.float32), 3.0),
        "classifier.bias": DenseTensor(generator.standard_normal(num_labels).astype(np.float32), 0.5),
    }
    header = StreamHeader(
        "0123456789abcdef" * 4,
        shapes,
        {name: tensor.values.shape for name, tensor in tensors.items()},
        r_max=rank,
        scale=0.5,
        metadata={"task": "sst2"},
    )
    return header, updates, tensors


@pytest.fixture
def make() -> Callable[..., Source]:
    return make_source


@pytest.fixture
def source() -> Source:
    return make_source()
