"""Streams of random numbers, for benchmarks that ask only how long they are."""

from __future__ import annotations

import numpy as np

from airlora.codec import HeadTensor, ModuleUpdate, StreamHeader, encode_stream
from airlora.ranks import ModuleShape


def random_stream(max_bytes: int, *, seed: int = 0, fingerprint: str = "0" * 64) -> bytes:
    """Return a stream of about `max_bytes`, up to a megabyte: 36 modules, in two layers, and a head."""
    generator = np.random.default_rng(seed)
    size, rank = (384, 8) if max_bytes < 80_000 else (1024, 32)
    shapes = {f"layer.{place}": ModuleShape(d_in=size, d_out=size) for place in range(36)}
    updates = {
        name: ModuleUpdate(
            generator.standard_normal((size, rank)),
            generator.standard_normal((rank, size)),
            np.geomspace(1, 0.05, rank),
        )
        for name in shapes
    }
    tensors = {"classifier.weight": HeadTensor(generator.standard_normal((2, 384)), 1.0)}
    header = StreamHeader(
        fingerprint, shapes, {name: tensor.values.shape for name, tensor in tensors.items()}, r_max=rank
    )
    return encode_stream(header, updates, tensors, max_bytes=max_bytes, layers=2)
