r"""Entropy models of the format: a fixed family of integer frequency tables.

A table gives the frequency of every symbol k among the quantised values of a vector. The tables are discretised
generalised Gaussian densities with mean 0,

$$f(k) \propto \int_{|k| - 1/2 + \delta}^{|k| + 1/2 + \delta} e^{-(x / a)^\beta} dx \quad (k \neq 0), \qquad
  f(0) \propto \int_{-1/2 - \delta}^{1/2 + \delta} e^{-(|x| / a)^\beta} dx$$

There are four shapes (β, δ) and 89 widths σ = 2^{(i - 24) / 8} steps. The scale a follows from σ and β. The shift δ
moves every decision threshold away from zero, as rate-distortion rounding does. Each table covers the symbols from -K
to K. A symbol outside this range is encoded as an escape symbol followed by a varint.

The tables are part of the format. They are computed with integers only, so every machine computes the same tables.
A test compares their SHA-256 digest with a constant.
"""

from __future__ import annotations

import functools
from math import isqrt

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "NUM_SHAPES",
    "NUM_TABLES",
    "NUM_WIDTHS",
    "PRECISION_BITS",
    "TABLES_VERSION",
    "frequencies",
    "largest_symbol",
]

TABLES_VERSION = 1
PRECISION_BITS = 24
"""Binary logarithm of the sum of the frequencies of a table; the precision of the entropy coder."""

# (2 β, 64 δ, 2^32 a / σ) per shape, with a = σ sqrt(Γ(1/β) / Γ(3/β)).
_SHAPES = (
    (4, 6, 6074001000),
    (3, 6, 4997906269),
    (2, 6, 3037000500),
    (1, 4, 392075079),
)
NUM_SHAPES = len(_SHAPES)
NUM_WIDTHS = 89
NUM_TABLES = NUM_SHAPES * NUM_WIDTHS

_WIDTHS_PER_OCTAVE = 8
_NARROWEST_OCTAVE = -3
_LARGEST_SYMBOL = 2047
_ESCAPE_FREQUENCY = 1 << (PRECISION_BITS - 14)
_TAIL = 11  # nats: a table ends where the density falls below e^-11 of its maximum

# Fixed-point constants with 32 fractional bits: 1, 2^(i/8), ln 2 and 1/64.
_ONE = 1 << 32
_EIGHTHS = (4294967296, 4683695048, 5107605667, 5569883475, 6074001000, 6623745059, 7223245206, 7877004752)
_LN2 = 2977044472
_SIXTYFOURTH = _ONE >> 6


def _exp_of_minus(y: int) -> int:
    """Return e^-y for y >= 0; argument and result have 32 fractional bits."""
    halvings, rest = divmod(y, _LN2)
    if halvings > 40:
        return 0
    term = total = _ONE
    for n in range(1, 14):
        term = term * rest // (n << 32)
        total += -term if n & 1 else term
    return total >> halvings


def _power(t: int, twice_beta: int) -> int:
    """Return t^β; argument and result have 32 fractional bits."""
    root = isqrt(t << 32)
    return (root, t, t * root >> 32, t * t >> 32)[twice_beta - 1]


def _masses(shape: int, width_index: int) -> list[int]:
    """Return the unnormalised probability masses of the symbols 0, 1, ..., K of one table."""
    twice_beta, shift, ratio = _SHAPES[shape]
    octave, eighth = divmod(width_index, _WIDTHS_PER_OCTAVE)
    octave += _NARROWEST_OCTAVE
    width = _EIGHTHS[eighth] << octave if octave >= 0 else _EIGHTHS[eighth] >> -octave
    scale = width * ratio >> 32
    # Midpoints per bin of the numerical integral; narrow densities need more of them.
    num_points = max(1, min(64, 8 * _ONE // width))
    delta = shift * _SIXTYFOURTH
    half = _ONE // 2

    def density(x: int) -> int:
        return _exp_of_minus(_power((x << 32) // scale, twice_beta))

    def integral(low: int, high: int) -> int:
        length = high - low
        values = (density(low + length * (2 * i + 1) // (2 * num_points)) for i in range(num_points))
        return sum(values) * length // num_points

    masses = [2 * integral(0, half + delta)]
    for k in range(1, _LARGEST_SYMBOL + 1):
        low = (k << 32) - half + delta
        if k > 1 and _power((low << 32) // scale, twice_beta) > _TAIL << 32:
            break
        masses.append(integral(low, low + _ONE))
    return masses


@functools.cache
def frequencies(table: int) -> NDArray[np.int64]:
    """Return the frequencies of one table.

    Args:
        table: Table index, shape times `NUM_WIDTHS` plus width, from 0 to `NUM_TABLES` - 1.

    Returns:
        Frequencies of the symbols -K, ..., 0, ..., K and of the escape symbol, int64 [2 K + 2]. Their sum is 2^24.

    Examples:
        >>> counts = frequencies(24)
        >>> int(counts.sum()) == 2**24, len(counts) == 2 * largest_symbol(24) + 2, bool((counts > 0).all())
        (True, True, True)
    """
    masses = _masses(*divmod(int(table), NUM_WIDTHS))
    total = masses[0] + 2 * sum(masses[1:])
    free = (1 << PRECISION_BITS) - 2 * len(masses) - _ESCAPE_FREQUENCY
    half = [1 + mass * free // total for mass in masses]
    counts = [*half[:0:-1], *half, 1 + _ESCAPE_FREQUENCY]
    counts[len(half) - 1] += (1 << PRECISION_BITS) - sum(counts)
    result = np.array(counts, dtype=np.int64)
    result.flags.writeable = False
    return result


def largest_symbol(table: int) -> int:
    """Return K, the largest magnitude that a table encodes without an escape symbol."""
    return len(frequencies(table)) // 2 - 1
