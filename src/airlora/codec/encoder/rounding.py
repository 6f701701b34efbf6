r"""Real numbers to whole numbers and back: a uniform mid-tread quantiser.

$$\hat x = k \Delta$$

Notation: k the whole number sent; Δ the step.

Three ways to round: to the nearest; at random, so that the mean is right; or at the least distortion plus λ times bits,
which moves a number one nearer to zero where that saves more than it costs.  The last also puts what is left in a bin
about its middle, so that a separate shift of the reconstruction points gains less than 0.1 dB and is not sent.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.codec.encoder.costs import MAX_COST_SYMBOL, choose_tables, code_lengths, row_histograms
from airlora.codec.encoder.metric import ErrorMetric, squared_norms
from airlora.codec.format.quantiser import MAX_SYMBOL, dequantise, step_sizes

__all__ = [
    "TRADEOFF",
    "CodedRows",
    "Rounding",
    "code_rows",
    "round_nearest",
    "round_rate_distortion",
    "round_shaped",
    "round_stochastic",
]

TRADEOFF = 0.12
"""λ of `round_rate_distortion`, squared steps per bit: within 0.02 dB of the best from 1 to 4 bits a number."""


_CHUNK = 1 << 20
_SHAPED_PASSES = 2
_PANEL = 32


class Rounding(enum.StrEnum):
    """How numbers are rounded; where errors count in a metric, the first two correct a number for the ones before.

    By the metric `RATE_DISTORTION` is the better of the two for its bytes.  But numbers that go towards zero make every
    vector shorter, and what all components do alike adds up, which a metric over one vector does not see: decoded,
    `NEAREST` does less harm.  Training under the rounding makes up for the length, and then the fewer bits count.
    """

    RATE_DISTORTION = "rate-distortion"
    NEAREST = "nearest"
    STOCHASTIC = "stochastic"


@dataclass(frozen=True, slots=True)
class CodedRows:
    """Quantised rows.

    Args:
        symbols: int32, shape [rows, length].
        tables: Of each row.
        bits: Of each row under its table.
        squared_errors: Of each row, in the metric, in the unit of the values squared.
    """

    symbols: NDArray[np.int32]
    tables: NDArray[np.int64]
    bits: NDArray[np.float64]
    squared_errors: NDArray[np.float64]


def code_rows(
    values: NDArray[Any],
    step_indices: NDArray[Any],
    *,
    rounding: Rounding = Rounding.RATE_DISTORTION,
    generator: np.random.Generator | None = None,
    metric: ErrorMetric | None = None,
) -> CodedRows:
    """Return the rows quantised at the given steps, each with its cheapest table.

    Args:
        values: Finite, shape [rows, length].
        step_indices: One per row.
        rounding: How.
        generator: For stochastic rounding; by default one seeded with 0.
        metric: In which errors count; None: all alike.
    """
    rows, length = values.shape
    generator = np.random.default_rng(0) if generator is None else generator
    result = CodedRows(
        np.empty((rows, length), dtype=np.int32), np.empty(rows, dtype=np.int64), np.empty(rows), np.empty(rows)
    )
    per_chunk = max(1, _CHUNK // max(length, 1))
    tradeoff = TRADEOFF if rounding is Rounding.RATE_DISTORTION else 0.0
    passes = _num_passes(rounding, is_shaped=metric is not None)
    for start in range(0, rows, per_chunk):
        place = slice(start, start + per_chunk)
        chunk, steps = values[place], step_indices[place]
        if rounding is Rounding.STOCHASTIC:
            symbols = round_stochastic(chunk, steps, generator)
        else:
            symbols = round_nearest(chunk, steps)
        tables, bits = choose_tables(row_histograms(symbols))
        # Shaped rounding spreads the numbers, so its tables are its own: where they weigh in, it is done again.
        for _ in range(passes):
            if metric is None:
                symbols = round_rate_distortion(chunk, steps, tables, tradeoff=tradeoff)
            else:
                symbols = round_shaped(chunk, steps, tables, metric, tradeoff=tradeoff)
            tables, bits = choose_tables(row_histograms(symbols))
        gaps = dequantise(symbols, steps)
        gaps -= chunk
        result.symbols[place], result.tables[place], result.bits[place] = symbols, tables, bits
        result.squared_errors[place] = squared_norms(gaps, metric)
    return result


def _num_passes(rounding: Rounding, *, is_shaped: bool) -> int:
    """Return how often numbers are rounded again after the first time, which goes to the nearest or is random."""
    if rounding is Rounding.RATE_DISTORTION:
        return _SHAPED_PASSES if is_shaped else 1
    return int(rounding is Rounding.NEAREST and is_shaped)


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


def round_shaped(
    values: NDArray[Any],
    step_indices: NDArray[Any],
    tables: NDArray[Any],
    metric: ErrorMetric,
    *,
    tradeoff: float,
) -> NDArray[np.int32]:
    r"""Return whole numbers whose errors are small in the metric, at few bits.

    Number by number, z_i of the module's equation becomes the cheapest of its nearest and the one next to that on the
    side of 0,

    $$\min_k W_{ii}^2\,(z_i / \Delta - k)^2 + \lambda\, \ell(k)$$

    Args:
        values: Finite, shape [rows, d].
        step_indices: Δ, one per row.
        tables: The entropy table of each row, for ℓ.
        metric: Over d numbers.
        tradeoff: λ, squared steps per bit, >= 0; 0 rounds z_i to its nearest.
    """
    scaled = values.T.astype(np.float64) / step_sizes(np.asarray(step_indices)).astype(np.float64)
    lengths = code_lengths()[tables].astype(np.float64)
    # Half of the bits of k above those of k - 1, times λ: how far from the middle between them k begins.
    shift = tradeoff / 2 * np.diff(lengths, axis=1, prepend=lengths[:, :1])
    symbols = np.empty(scaled.shape, dtype=np.int32)
    start = 0
    for factor in metric.factors:
        _round_block(scaled[start : start + len(factor)], symbols[start : start + len(factor)], factor, shift)
        start += len(factor)
    return np.ascontiguousarray(symbols.T)


def _round_block(
    scaled: NDArray[np.float64], symbols: NDArray[np.int32], factor: NDArray[np.float32], shift: NDArray[np.float64]
) -> None:
    """Fill `symbols`, [n, rows], from `scaled`, likewise, in units of the step."""
    diagonal = np.diagonal(factor).astype(np.float64)
    feedback = (factor.astype(np.float64) / diagonal).T
    energies = np.square(diagonal)
    errors = np.zeros(scaled.shape)
    rows = np.arange(scaled.shape[1])
    for first in range(0, len(scaled), _PANEL):
        panel = slice(first, first + _PANEL)
        targets = scaled[panel] + feedback[panel, :first] @ errors[:first]
        for i in range(first, min(first + _PANEL, len(scaled))):
            wanted = targets[i - first]
            if i > first:
                wanted = wanted + feedback[i, first:i] @ errors[first:i]
            magnitude = np.abs(wanted)
            nearest = np.minimum(np.rint(magnitude), MAX_SYMBOL)
            place = np.minimum(nearest, MAX_COST_SYMBOL).astype(np.intp)
            # Of two neighbours the outer one is taken beyond the middle plus its shift.
            nearest -= (nearest > 0) & (magnitude - nearest + 0.5 < shift[rows, place] / energies[i])
            chosen = np.copysign(nearest, wanted)
            symbols[i] = chosen
            errors[i] = scaled[i] - chosen


def _in_steps(values: NDArray[Any], step_indices: NDArray[Any]) -> NDArray[np.float32]:
    steps = step_sizes(np.asarray(step_indices))
    return np.asarray(values, dtype=np.float32) / steps[:, None]


def _clip(symbols: NDArray[Any]) -> NDArray[np.int32]:
    result: NDArray[np.int32] = np.clip(symbols, -MAX_SYMBOL, MAX_SYMBOL).astype(np.int32)
    return result
