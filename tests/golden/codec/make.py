"""Make the golden streams: what every later version must decode to the same bits.

python tests/golden/codec/make.py

Run it only for a new version of the format; `small.airs` and `delta.airs` of an old version stay for ever.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from airlora.codec import (
    HeadTensor,
    ModuleUpdate,
    StreamHeader,
    decode_delta,
    decode_stream,
    encode_delta,
    encode_stream,
)
from airlora.ranks import ModuleShape

HERE = Path(__file__).parent
SHAPES = {
    f"encoder.layer.{layer}.{name}": ModuleShape(d_in=d_in, d_out=d_out)
    for layer in range(2)
    for name, d_in, d_out in (("attention.self.query", 24, 24), ("output.dense", 48, 24))
}


def source(change: float) -> tuple[StreamHeader, dict[str, ModuleUpdate], dict[str, HeadTensor]]:
    generator, other = np.random.default_rng(0), np.random.default_rng(1)
    updates = {}
    for name, shape in SHAPES.items():
        U = generator.standard_normal((shape.d_out, 4)) + change * other.standard_normal((shape.d_out, 4))
        V = generator.laplace(size=(4, shape.d_in))
        updates[name] = ModuleUpdate(U, V, np.geomspace(1, 0.05, 4))
    tensors = {
        "classifier.weight": HeadTensor(generator.standard_normal((2, 24)), 3.0),
        "classifier.bias": HeadTensor(generator.standard_normal(2), 0.3),
    }
    header = StreamHeader("0123456789abcdef" * 4, SHAPES, {n: t.values.shape for n, t in tensors.items()}, r_max=4)
    return header, updates, tensors


def main() -> None:
    streams = {
        "small": encode_stream(*source(0.0), max_distortion=0.05, layers=2),
        "half": encode_stream(*source(0.0), bits=16),
    }
    streams["delta"] = encode_delta(streams["small"], *source(0.1), max_distortion=0.05)
    for name, data in streams.items():
        (HERE / f"{name}.airs").write_bytes(data)
        decoded = decode_delta(data, streams["small"]) if name == "delta" else decode_stream(data, strict=True)
        arrays = {f"tensor.{key}": value for key, value in decoded.tensors.items()}
        for key, (U, V) in decoded.modules.items():
            arrays |= {f"U.{key}": U, f"V.{key}": V}
        np.savez_compressed(HERE / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
