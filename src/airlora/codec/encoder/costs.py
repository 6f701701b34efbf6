"""Size of symbols in bits under every entropy table, and choice of the best table for a vector.

Only the encoder uses these sizes. They may differ between machines in the last bit without affecting the decoder.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.codec.format.tables import (
    NUM_SHAPES,
    NUM_TABLES,
    NUM_WIDTHS,
    PRECISION_BITS,
    frequencies,
    largest_symbol,
)

__all__ = ["MAX_COST_SYMBOL", "choose_tables", "code_lengths", "row_histograms"]

MAX_COST_SYMBOL = 2303
"""Largest magnitude in the table of code lengths. Larger symbols are treated as this one."""

_NEIGHBOURS = 1


@functools.cache
def code_lengths() -> NDArray[np.float32]:
    """Return the code length in bits of every magnitude under every table.

    Returns:
        Code lengths, float32 [NUM_TABLES, MAX_COST_SYMBOL + 1]. An escaped symbol includes its varint.
    """
    magnitudes = np.arange(MAX_COST_SYMBOL + 1)
    lengths = np.empty((NUM_TABLES, len(magnitudes)), dtype=np.float32)
    for table, row in enumerate(lengths):
        counts, largest = frequencies(table), largest_symbol(table)
        bits = PRECISION_BITS - np.log2(counts)
        row[: largest + 1] = bits[largest:-1]
        # The varint of an escaped symbol holds the excess of its magnitude, with the sign in the lowest bit.
        excess = 2 * np.maximum(magnitudes[largest + 1 :] - largest - 1, 0) + 1
        row[largest + 1 :] = bits[-1] + 8 * (1 + np.floor(np.log2(excess) / 7))
    return lengths


@functools.cache
def _mean_magnitudes() -> NDArray[np.float64]:
    """Return the mean |k| under each table, [shapes, widths]; it does not decrease with the width."""
    means = np.empty(NUM_TABLES)
    for table in range(NUM_TABLES):
        counts, largest = frequencies(table)[:-1], largest_symbol(table)
        means[table] = np.abs(np.arange(-largest, largest + 1)) @ counts / counts.sum()
    return np.maximum.accumulate(means.reshape(NUM_SHAPES, NUM_WIDTHS), axis=1)


def row_histograms(symbols: NDArray[Any]) -> NDArray[np.float32]:
    """Return the number of occurrences of each magnitude in each row.

    Args:
        symbols: Symbols, integers [rows, length].

    Returns:
        Counts, float32 [rows, largest magnitude + 1]. Magnitudes above `MAX_COST_SYMBOL` count as `MAX_COST_SYMBOL`.
    """
    magnitudes = np.minimum(np.abs(symbols), MAX_COST_SYMBOL)
    width = int(magnitudes.max(initial=0)) + 1
    rows = len(symbols)
    flat = magnitudes.astype(np.int64) + (np.arange(rows, dtype=np.int64) * width)[:, None]
    return np.bincount(flat.ravel(), minlength=rows * width).reshape(rows, width).astype(np.float32)


def choose_tables(histograms: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the table with the smallest code length for each row, and that code length in bits.

    The mean magnitude of a row selects a width for each shape. The code lengths of this width and its neighbours are
    compared exactly.

    Args:
        histograms: Counts from `row_histograms`, [rows, magnitudes].
    """
    rows, width = histograms.shape
    totals = np.maximum(histograms.sum(axis=1), 1)
    # `@` has raised spurious floating-point warnings here, although all counts are finite; einsum has not.
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
