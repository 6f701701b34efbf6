"""Rows of numbers to whole numbers, tables and bits: the one way in which the encoder quantises."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.codec.encoder.costs import choose_tables, row_histograms
from airlora.codec.encoder.shaping import ErrorMetric, round_shaped, squared_norms
from airlora.codec.quantise import dequantise, round_nearest, round_rate_distortion, round_stochastic

__all__ = ["TRADEOFF", "CodedRows", "Rounding", "code_rows"]

TRADEOFF = 0.12
"""λ of `round_rate_distortion`, squared steps per bit: within 0.02 dB of the best from 1 to 4 bits a number."""

_CHUNK = 1 << 20
_SHAPED_PASSES = 2


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
