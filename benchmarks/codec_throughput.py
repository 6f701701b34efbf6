"""Time, size and memory of encoding an adapter for OPT-1.3B, compared with zstd on safetensors.

python benchmarks/codec_throughput.py                      # 24 layers, rank 64: 57 million parameters
python benchmarks/codec_throughput.py --layers 2 --rank 8  # quick check

The values are random. The singular values of a module follow a power law, and their scale differs between modules.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time

import numpy as np

from airlora.codec import ModuleUpdate, StreamHeader, decode_stream, describe, encode_stream
from airlora.ranks import ModuleShape

HIDDEN, FEED_FORWARD = 2048, 8192
PROJECTIONS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.out_proj": (HIDDEN, HIDDEN),
    "fc1": (FEED_FORWARD, HIDDEN),
    "fc2": (HIDDEN, FEED_FORWARD),
}


def random_updates(layers: int, rank: int, seed: int) -> dict[str, ModuleUpdate]:
    generator = np.random.default_rng(seed)
    updates = {}
    for layer in range(layers):
        for name, (d_out, d_in) in PROJECTIONS.items():
            singular = (generator.lognormal(0, 0.5) * np.arange(1, rank + 1) ** -0.8).astype(np.float32)
            U = generator.standard_normal((d_out, rank), dtype=np.float32) * (singular / np.sqrt(d_out, dtype="f4"))
            V = generator.standard_normal((rank, d_in), dtype=np.float32) / np.sqrt(d_in, dtype="f4")
            updates[f"model.decoder.layers.{layer}.{name}"] = ModuleUpdate(U, V, (singular**2).astype(np.float64))
    return updates


def peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def timed(label, function, num_params, rows):
    start = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - start
    size = len(result) if isinstance(result, bytes) else None
    rows.append(
        {
            "what": label,
            "seconds": round(seconds, 2),
            "bytes": size,
            "bits_per_number": None if size is None else round(8 * size / num_params, 3),
            "peak_mib": round(peak_mib()),
        }
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument(
        "--max-distortion", type=float, default=0.1, help="largest share of the importance that may be lost"
    )
    parser.add_argument("--bits", default="auto", choices=["auto", "32", "16", "8", "4"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()

    updates = random_updates(arguments.layers, arguments.rank, arguments.seed)
    shapes = {name: ModuleShape(d_in=u.V.shape[1], d_out=u.U.shape[0]) for name, u in updates.items()}
    header = StreamHeader("0" * 64, shapes, r_max=arguments.rank)
    num_params = sum(u.U.size + u.V.size for u in updates.values())
    bits = arguments.bits if arguments.bits == "auto" else int(arguments.bits)
    rows: list[dict[str, object]] = [
        {
            "what": "input",
            "seconds": 0.0,
            "bytes": 4 * num_params,
            "bits_per_number": 32.0,
            "peak_mib": round(peak_mib()),
        }
    ]
    data = timed(
        f"pack ({arguments.bits})",
        lambda: encode_stream(header, updates, bits=bits, max_distortion=arguments.max_distortion),
        num_params,
        rows,
    )
    timed("unpack", lambda: decode_stream(data, strict=True), num_params, rows)
    about = describe(data)
    compare_with_zstd(updates, num_params, rows)
    summary = {key: about[key] for key in ("num_components", "num_params", "num_segments", "head_bytes")}
    if arguments.json:
        print(json.dumps({"numbers": num_params, "rows": rows, **summary}))
        return
    print(f"{num_params:,} parameters; sent: {summary}")
    print(f"{'':28}{'seconds':>9}{'bytes':>14}{'ratio':>8}{'bits/param':>13}{'peak MiB':>10}")
    for row in rows:
        size = row["bytes"]
        shown = f"{size:>14,}{4 * num_params / size:>8.1f}{row['bits_per_number']:>13}" if size else " " * 35
        print(f"{row['what']:28}{row['seconds']:>9}{shown}{row['peak_mib']:>10}")


def compare_with_zstd(updates, num_params, rows) -> None:
    try:
        import zstandard
        from safetensors.numpy import save
    except ImportError as error:
        print(f"zstd is skipped because {error.name} is not installed", file=sys.stderr)
        return
    for kind in (np.float32, np.float16):
        tensors = {
            f"{name}.{factor}": np.ascontiguousarray(values, dtype=kind)
            for name, update in updates.items()
            for factor, values in (("U", update.U), ("V", update.V))
        }
        content = save(tensors)
        timed(f"zstd -3, {kind.__name__}", lambda: zstandard.compress(content, 3), num_params, rows)  # noqa: B023


if __name__ == "__main__":
    main()
