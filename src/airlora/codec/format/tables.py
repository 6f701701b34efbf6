r"""The entropy models: a fixed family of integer frequency tables.

A table says how often each whole number k occurs among the quantised numbers of a vector.  The family are discretised
generalised Gaussians

$$f(k) \propto \int_{|k| - 1/2 + \delta}^{|k| + 1/2 + \delta} e^{-(x / a)^\beta} dx$$

for four shapes (β, δ) and 89 widths σ = 2^{(i - 24) / 8} steps, with a fitting each σ.  The shift δ of every
threshold away from zero is what rate-distortion rounding does to a vector.  What falls outside -K..K is coded as
`ESCAPE` and follows as a plain number.

The tables are part of the format, so every one is computed in whole numbers alone: Python's own integers, with fixed
point where a fraction is needed.  Their digest is pinned by a test.
"""

from __future__ import annotations

import functools
import hashlib
from math import isqrt
from typing import Any

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
    "tables_digest",
]

TABLES_VERSION = 1
PRECISION_BITS = 24
"""The frequencies of a table add up to 2^24, the precision of the entropy coder."""

# (twice β, δ in 1/64 of a step, a / σ in 1/2^32): a = σ sqrt(Γ(1/β) / Γ(3/β)).
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
_TAIL = 11  # in nats: a table ends where its density is e^-11 of its top

# Fixed point with 32 fractional bits; 2^(i/8) and ln 2.
_ONE = 1 << 32
_EIGHTHS = (4294967296, 4683695048, 5107605667, 5569883475, 6074001000, 6623745059, 7223245206, 7877004752)
_LN2 = 2977044472
_SIXTYFOURTH = _ONE >> 6


def _exp_of_minus(y: int) -> int:
    """Return e^-y, in and out with 32 fractional bits; y >= 0."""
    halvings, rest = divmod(y, _LN2)
    if halvings > 40:
        return 0
    term = total = _ONE
    for n in range(1, 14):
        term = term * rest // (n << 32)
        total += -term if n & 1 else term
    return total >> halvings


def _power(t: int, twice_beta: int) -> int:
    """Return t^β with 32 fractional bits."""
    root = isqrt(t << 32)
    return (root, t, t * root >> 32, t * t >> 32)[twice_beta - 1]


def _sub_points(width: int) -> int:
    """Return into how many parts a bin is cut to integrate over it: narrow densities need many."""
    return max(1, min(64, 8 * _ONE // width))


def _masses(shape: int, width_index: int) -> list[int]:
    """Return the mass of the bins 0, 1, ..., K of one table, in any unit."""
    twice_beta, shift, ratio = _SHAPES[shape]
    octave, place = divmod(width_index, _WIDTHS_PER_OCTAVE)
    octave += _NARROWEST_OCTAVE
    width = _EIGHTHS[place] << octave if octave >= 0 else _EIGHTHS[place] >> -octave
    scale = width * ratio >> 32
    parts = _sub_points(width)
    delta = shift * _SIXTYFOURTH
    half = _ONE // 2

    def density(x: int) -> int:
        return _exp_of_minus(_power((x << 32) // scale, twice_beta))

    def integral(low: int, high: int) -> int:
        length = high - low
        values = (density(low + length * (2 * i + 1) // (2 * parts)) for i in range(parts))
        return sum(values) * length // parts

    masses = [2 * integral(0, half + delta)]
    for k in range(1, _LARGEST_SYMBOL + 1):
        low = (k << 32) - half + delta
        if k > 1 and _power((low << 32) // scale, twice_beta) > _TAIL << 32:
            break
        masses.append(integral(low, low + _ONE))
    return masses


@functools.lru_cache(maxsize=NUM_TABLES)
def _frequencies(table: int) -> NDArray[np.int64]:
    masses = _masses(*divmod(table, NUM_WIDTHS))
    total = masses[0] + 2 * sum(masses[1:])
    num_symbols = 2 * len(masses)
    free = (1 << PRECISION_BITS) - num_symbols - _ESCAPE_FREQUENCY
    half = [1 + mass * free // total for mass in masses]
    counts = [*half[:0:-1], *half, 1 + _ESCAPE_FREQUENCY]
    counts[len(half) - 1] += (1 << PRECISION_BITS) - sum(counts)
    result = np.array(counts, dtype=np.int64)
    result.flags.writeable = False
    return result


def frequencies(table: int) -> NDArray[np.int64]:
    """Return the frequencies of one table: of -K, ..., 0, ..., K and, last, of the escape; they add up to 2^24.

    Args:
        table: Shape times `NUM_WIDTHS` plus width, from 0 to `NUM_TABLES` - 1.

    >>> counts = frequencies(24)
    >>> int(counts.sum()) == 2**24, len(counts) == 2 * largest_symbol(24) + 2, bool((counts > 0).all())
    (True, True, True)
    """
    return _frequencies(int(table))


def largest_symbol(table: int) -> int:
    """Return K: what is larger in magnitude is escaped."""
    return len(frequencies(table)) // 2 - 1


def tables_digest() -> str:
    """Return the SHA-256 over all tables, 64 hexadecimal digits; a change of it is a change of the format."""
    digest = hashlib.sha256()
    for table in range(NUM_TABLES):
        counts: NDArray[Any] = frequencies(table).astype("<u4")
        digest.update(len(counts).to_bytes(4, "little") + counts.tobytes())
    return digest.hexdigest()
