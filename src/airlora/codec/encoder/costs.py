"""What a number costs in bits under each table, and which table suits a vector; for encoders only.

Nothing here touches decoding, so floating point is free to differ between machines in its last bit.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.codec.format.tables import NUM_SHAPES, NUM_WIDTHS, PRECISION_BITS, frequencies, largest_symbol

__all__ = ["MAX_COST_SYMBOL", "choose_tables", "code_lengths", "row_histograms"]

MAX_COST_SYMBOL = 2303
_NEIGHBOURS = 1


@functools.cache
def code_lengths() -> NDArray[np.float32]:
    """Return the bits of |k| under every table, shape [tables, MAX_COST_SYMBOL + 1]; escapes with their number."""
    magnitudes = np.arange(MAX_COST_SYMBOL + 1)
    lengths = np.empty((NUM_SHAPES * NUM_WIDTHS, len(magnitudes)), dtype=np.float32)
    for table, row in enumerate(lengths):
        counts, largest = frequencies(table), largest_symbol(table)
        bits = PRECISION_BITS - np.log2(counts)
        row[: largest + 1] = bits[largest:-1]
        # An escape carries its excess, sign in the lowest bit, as a number of seven bits to the byte.
        excess = 2 * np.maximum(magnitudes[largest + 1 :] - largest - 1, 0) + 1
        row[largest + 1 :] = bits[-1] + 8 * (1 + np.floor(np.log2(excess) / 7))
    return lengths


@functools.cache
def _mean_magnitudes() -> NDArray[np.float64]:
    """Return the mean |k| of each table, shape [shapes, widths]; it rises with the width."""
    means = np.empty(NUM_SHAPES * NUM_WIDTHS)
    for table in range(len(means)):
        counts, largest = frequencies(table)[:-1], largest_symbol(table)
        means[table] = np.abs(np.arange(-largest, largest + 1)) @ counts / counts.sum()
    return np.maximum.accumulate(means.reshape(NUM_SHAPES, NUM_WIDTHS), axis=1)


def row_histograms(symbols: NDArray[Any]) -> NDArray[np.float32]:
    """Return how often each magnitude occurs in each row.

    Args:
        symbols: Whole numbers, shape [rows, length].

    Returns:
        Shape [rows, largest magnitude + 1]; larger than `MAX_COST_SYMBOL` counts as that.
    """
    magnitudes = np.minimum(np.abs(symbols), MAX_COST_SYMBOL)
    width = int(magnitudes.max(initial=0)) + 1
    rows = len(symbols)
    flat = magnitudes.astype(np.int64) + (np.arange(rows, dtype=np.int64) * width)[:, None]
    return np.bincount(flat.ravel(), minlength=rows * width).reshape(rows, width).astype(np.float32)


def choose_tables(histograms: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the cheapest table of each row and its bits.

    The mean magnitude picks a width for each shape; that width and its neighbours are tried exactly.

    Args:
        histograms: Of `row_histograms`, shape [rows, magnitudes].
    """
    rows, width = histograms.shape
    totals = np.maximum(histograms.sum(axis=1), 1)
    # Not `@`, which was once seen to warn here, where all numbers are counts and so finite.
    means = np.einsum("rw,w->r", histograms, np.arange(width, dtype=np.float32)) / totals
    lengths = code_lengths()[:, :width]
    best = np.zeros(rows, dtype=np.int64)
    best_bits = np.full(rows, np.inf)
    for shape, shape_means in enumerate(_mean_magnitudes()):
        centre = np.searchsorted(shape_means, means)
        for offset in range(-_NEIGHBOURS - 1, _NEIGHBOURS + 1):
            tables = shape * NUM_WIDTHS + np.clip(centre + offset, 0, NUM_WIDTHS - 1)
            bits = np.einsum("rk,rk->r", histograms, lengths[tables]).astype(np.float64)
            better = bits < best_bits
            best[better], best_bits[better] = tables[better], bits[better]
    return best, best_bits
