"""Time of the canonical SVD of an adapter of OPT-1.3B size, compared with the SVD of the dense updates.

python benchmarks/canonical_svd.py                      # 24 layers, rank 128; dense: one of each projection, scaled up
python benchmarks/canonical_svd.py --layers 2 --rank 8  # a quick look

The compared methods form every update as a dense matrix and decompose it by `torch.linalg.svd`, or its leading
components by `torch.svd_lowrank`. They run once per kind of projection, and their time is multiplied by the layers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch

from airlora.adapters import canonical_svd

HIDDEN, FEED_FORWARD = 2048, 8192
PROJECTIONS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.out_proj": (HIDDEN, HIDDEN),
    "fc1": (FEED_FORWARD, HIDDEN),
    "fc2": (HIDDEN, FEED_FORWARD),
}

Factors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def random_factors(d_out: int, d_in: int, rank: int, generator: torch.Generator) -> Factors:
    return (
        torch.randn(d_out, rank, generator=generator) / d_out**0.5,
        torch.randn(rank, generator=generator),
        torch.randn(rank, d_in, generator=generator) / d_in**0.5,
    )


def canonical(P: torch.Tensor, lam: torch.Tensor, Q: torch.Tensor) -> torch.Tensor:
    U, s, Vt = canonical_svd(P, lam, Q)
    return (U * s) @ Vt


def dense(P: torch.Tensor, lam: torch.Tensor, Q: torch.Tensor) -> torch.Tensor:
    rank = len(lam)
    U, s, Vt = torch.linalg.svd((P * lam) @ Q, full_matrices=False)
    return (U[:, :rank] * s[:rank]) @ Vt[:rank]


def low_rank(P: torch.Tensor, lam: torch.Tensor, Q: torch.Tensor) -> torch.Tensor:
    U, s, V = torch.svd_lowrank((P * lam) @ Q, q=len(lam), niter=2)
    return (U * s) @ V.T


def measure(function: Callable[..., torch.Tensor], factors: Factors) -> tuple[float, float]:
    """Return the time including the final product, seconds, and the relative error of the product."""
    start = time.perf_counter()
    product = function(*factors)
    seconds = time.perf_counter() - start
    P, lam, Q = (factor.double() for factor in factors)
    exact = (P * lam) @ Q
    return seconds, float((product.double() - exact).norm() / exact.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(arguments.seed)
    rows = []
    for label, function, layers in (
        ("canonical_svd", canonical, arguments.layers),
        ("torch.svd_lowrank", low_rank, 1),
        ("torch.linalg.svd", dense, 1),
    ):
        seconds, worst = 0.0, 0.0
        for _ in range(layers):
            for d_out, d_in in PROJECTIONS.values():
                took, error = measure(function, random_factors(d_out, d_in, arguments.rank, generator))
                seconds, worst = seconds + took, max(worst, error)
        rows.append({"what": label, "seconds": round(seconds * arguments.layers / layers, 2), "worst_error": worst})
    for row in rows:
        row["ratio"] = round(row["seconds"] / rows[0]["seconds"], 1)
    if arguments.json:
        print(json.dumps({"layers": arguments.layers, "rank": arguments.rank, "rows": rows}))
        return
    print(f"{'':20}{'seconds':>10}{'ratio':>8}{'worst relative error':>24}")
    for row in rows:
        print(f"{row['what']:20}{row['seconds']:>10}{row['ratio']:>8}{row['worst_error']:>24.1e}")


if __name__ == "__main__":
    main()
