"""Generate the golden streams, which every later version must decode to the same bits.

python tests/golden/codec/make.py

Run it only for a new version of the format. The files of an old version are never regenerated.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from airlora.codec import DenseTensor, ModuleUpdate, StreamHeader, decode_stream, encode_delta, encode_stream
from airlora.ranks import ModuleShape

FOLDER = Path(__file__).parent
SHAPES = {
    f"encoder.layer.{layer}.{name}": ModuleShape(d_in=d_in, d_out=d_out)
    for layer in range(2)
    for name, d_in, d_out in (("attention.self.query", 24, 24), ("output.dense", 48, 24))
}


def source(change: float) -> tuple[StreamHeader, dict[str, ModuleUpdate], dict[str, DenseTensor]]:
    generator, other = np.random.default_rng(0), np.random.default_rng(1)
    updates = {}
    for name, shape in SHAPES.items():
        U = generator.standard_normal((shape.d_out, 4)) + change * other.standard_normal((shape.d_out, 4))
        V = generator.laplace(size=(4, shape.d_in))
        updates[name] = ModuleUpdate(U, V, np.geomspace(1, 0.05, 4))
    tensors = {
        "classifier.weight": DenseTensor(generator.standard_normal((2, 24)), 3.0),
        "classifier.bias": DenseTensor(generator.standard_normal(2), 0.3),
    }
    header = StreamHeader("0123456789abcdef" * 4, SHAPES, {n: t.values.shape for n, t in tensors.items()}, r_max=4)
    return header, updates, tensors


def main() -> None:
    streams = {
        "small": encode_stream(*source(0.0), max_distortion=0.05, layers=2),
        "half": encode_stream(*source(0.0), bits=16),
    }
    streams["delta"] = encode_delta(streams["small"], *source(0.1), max_distortion=0.05)
    base = decode_stream(streams["small"], strict=True)
    for name, data in streams.items():
        (FOLDER / f"{name}.airs").write_bytes(data)
        decoded = decode_stream(data, strict=True, base=base)
        arrays = {f"tensor.{key}": value for key, value in decoded.tensors.items()}
        for key, (U, V) in decoded.modules.items():
            arrays |= {f"U.{key}": U, f"V.{key}": V}
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
