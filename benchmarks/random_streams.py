"""Streams of random values for benchmarks that depend only on the size of a stream."""

from __future__ import annotations

import numpy as np

from airlora.codec import DenseTensor, ModuleUpdate, StreamHeader, encode_stream
from airlora.ranks import ModuleShape


def random_stream(max_bytes: int, *, seed: int = 0, fingerprint: str = "0" * 64) -> bytes:
    """Return a stream of 36 modules and a classification head.

    Args:
        max_bytes: Approximate size of the stream in bytes, up to about 1,000,000.
        seed: Seed of the NumPy generator that draws the values.
        fingerprint: Fingerprint of the base model, 64 hexadecimal digits.
    """
    generator = np.random.default_rng(seed)
    size, rank = (384, 8) if max_bytes < 80_000 else (1024, 32)
    shapes = {f"layer.{layer}": ModuleShape(d_in=size, d_out=size) for layer in range(36)}
    updates = {
        name: ModuleUpdate(
            generator.standard_normal((size, rank)),
            generator.standard_normal((rank, size)),
            np.geomspace(1, 0.05, rank),
        )
        for name in shapes
    }
    tensors = {"classifier.weight": DenseTensor(generator.standard_normal((2, 384)), 1.0)}
    header = StreamHeader(
        fingerprint, shapes, {name: tensor.values.shape for name, tensor in tensors.items()}, r_max=rank
    )
    return encode_stream(header, updates, tensors, max_bytes=max_bytes, layers=2)
