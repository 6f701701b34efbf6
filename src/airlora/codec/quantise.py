r"""Real numbers to whole numbers and back: a uniform mid-tread quantiser.

$$\hat x = k \Delta$$

Notation: k the whole number sent; Δ the step.

Three ways to round: to the nearest; at random, so that the mean is right; or at the least distortion plus λ times bits,
which moves a number one nearer to zero where that saves more than it costs.  The last also puts what is left in a bin
about its middle, so that a separate shift of the reconstruction points gains less than 0.1 dB and is not sent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.codec.encoder.costs import MAX_COST_SYMBOL, code_lengths
from airlora.codec.format.steps import step_sizes

__all__ = [
    "MAX_SYMBOL",
    "dequantise",
    "round_nearest",
    "round_rate_distortion",
    "round_stochastic",
]

MAX_SYMBOL = (1 << 18) - 1
"""Largest |k|; it fits a float32 exactly, with bits to spare."""


def round_nearest(values: NDArray[Any], step_indices: NDArray[Any]) -> NDArray[np.int32]:
    """Return the nearest k of each value.

    Args:
        values: Finite, shape [rows, length].
        step_indices: One per row.
    """
    return _clip(np.rint(_in_steps(values, step_indices)))


def round_stochastic(
    values: NDArray[Any], step_indices: NDArray[Any], generator: np.random.Generator
) -> NDArray[np.int32]:
    """Return k drawn between the two neighbours so that its mean is the value; arguments as in `round_nearest`."""
    scaled = _in_steps(values, step_indices)
    low = np.floor(scaled)
    return _clip(low + (generator.random(scaled.shape, dtype=np.float32) < scaled - low))


def round_rate_distortion(
    values: NDArray[Any], step_indices: NDArray[Any], tables: NDArray[Any], *, tradeoff: float
) -> NDArray[np.int32]:
    r"""Return the k that is cheapest in distortion and bits together.

    $$\min_k (x / \Delta - k)^2 + \lambda\, \ell(k), \qquad |k| \in \{n, n - 1\},\ n = \text{nearest}$$

    Args:
        values: Finite, shape [rows, length].
        step_indices: One per row.
        tables: The entropy table of each row, for ℓ.
        tradeoff: λ, squared steps per bit, >= 0; 0 is `round_nearest`, ln 2 / 6 = 0.116 the slope of a fine quantiser.
    """
    scaled = np.abs(_in_steps(values, step_indices))
    nearest = np.rint(scaled)
    if tradeoff == 0:
        return _clip(np.copysign(nearest, values))
    inner = np.maximum(nearest - 1, 0)
    lengths = code_lengths()[tables]
    rise = np.diff(lengths, axis=1, prepend=lengths[:, :1])  # bits of k above those of k - 1
    place = np.minimum(nearest, MAX_COST_SYMBOL).astype(np.int64)
    saved = np.take_along_axis(rise, place, axis=1)
    # (s - n + 1)^2 - (s - n)^2 = 2 (s - n) + 1
    move = (2 * (scaled - nearest) + 1 < tradeoff * saved) & (nearest > 0)
    return _clip(np.copysign(np.where(move, inner, nearest), values))


def dequantise(symbols: NDArray[np.int32], step_indices: NDArray[Any]) -> NDArray[np.float32]:
    """Return k Δ, bit for bit the same everywhere: k is exact in float32, so the one rounding is that of the product.

    Args:
        symbols: k, |k| <= `MAX_SYMBOL`, shape [rows, length].
        step_indices: One per row.
    """
    return symbols.astype(np.float32) * step_sizes(np.asarray(step_indices))[:, None]


def _in_steps(values: NDArray[Any], step_indices: NDArray[Any]) -> NDArray[np.float32]:
    steps = step_sizes(np.asarray(step_indices))
    return np.asarray(values, dtype=np.float32) / steps[:, None]


def _clip(symbols: NDArray[Any]) -> NDArray[np.int32]:
    result: NDArray[np.int32] = np.clip(symbols, -MAX_SYMBOL, MAX_SYMBOL).astype(np.int32)
    return result
