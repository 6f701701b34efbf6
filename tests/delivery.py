"""Small streams and repositories for tests of the delivery."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from airlora.codec import HeadTensor, ModuleUpdate, StreamHeader, encode_stream
from airlora.ranks import ModuleShape
from airlora.release import KeyFolder, SignedRepository, create_repository

FINGERPRINT = "0123456789abcdef" * 4


def make_stream(seed: int = 0, *, size: int = 48, num_modules: int = 4, fingerprint: str = FINGERPRINT) -> bytes:
    """Return a stream of some kilobytes and many segments."""
    generator = np.random.default_rng(seed)
    shapes = {f"layer.{place}.dense": ModuleShape(d_in=size, d_out=size) for place in range(num_modules)}
    updates = {
        name: ModuleUpdate(
            generator.standard_normal((size, 4)), generator.standard_normal((4, size)), np.geomspace(1, 0.1, 4)
        )
        for name in shapes
    }
    tensors = {"classifier.weight": HeadTensor(generator.standard_normal((2, size)), 1.0)}
    header = StreamHeader(fingerprint, shapes, {name: tensor.values.shape for name, tensor in tensors.items()}, r_max=4)
    return encode_stream(header, updates, tensors, max_distortion=0.02, layers=2)


def make_repository(folder: Path, **options: object) -> SignedRepository:
    """Return an empty repository in `folder/repo`, its keys in `folder/keys`."""
    repo = folder / "repo"
    return create_repository(repo, KeyFolder(folder / "keys", repo), **options)  # type: ignore[arg-type]
