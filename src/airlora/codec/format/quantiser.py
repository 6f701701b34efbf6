r"""Quantiser steps on a logarithmic grid that is the same on every machine.

$$\Delta_e = 2^{e/16}$$

A step is coded as the integer e.  The sixteen mantissas are literals and the power of two is exact, so no logarithm or
power of a C library, which may differ in its last bit, takes part in decoding.  Sixteen steps an octave are 0.38 dB
apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.errors import CodecError

__all__ = [
    "MAX_STEP_INDEX",
    "MAX_SYMBOL",
    "MIN_STEP_INDEX",
    "STEPS_PER_OCTAVE",
    "dequantise",
    "step_size",
    "step_sizes",
]

STEPS_PER_OCTAVE = 16
MIN_STEP_INDEX = -1024
MAX_STEP_INDEX = 1023
MAX_SYMBOL = (1 << 18) - 1
"""Largest |k|; it fits a float32 exactly, with bits to spare."""


# 2^(i/16), rounded to float32, which float64 holds exactly.
_MANTISSAS = np.array(
    [
        1.0,
        1.0442737824274138,
        1.0905077326652577,
        1.1387886347566916,
        1.189207115002721,
        1.241857812073484,
        1.2968395546510096,
        1.3542555469368927,
        1.4142135623730951,
        1.4768261459394993,
        1.5422108254079407,
        1.6104903319492543,
        1.6817928305074290,
        1.7562521603732995,
        1.8340080864093424,
        1.9152065613971474,
    ],
    dtype=np.float32,
)


def step_sizes(indices: NDArray[Any]) -> NDArray[np.float32]:
    """Return the steps Δ_e of an array of indices e; each is exact, a float32 literal times a power of two.

    Args:
        indices: Integers from -1024 to 1023.
    """
    indices = np.asarray(indices, dtype=np.int64)
    octave, place = np.divmod(indices, STEPS_PER_OCTAVE)
    return np.ldexp(_MANTISSAS[place], octave.astype(np.int32)).astype(np.float32)


def step_size(index: int) -> float:
    """Return the step Δ_e of one index.

    Raises:
        CodecError: The index is outside -1024 to 1023.

    >>> step_size(0), step_size(-32), step_size(24)
    (1.0, 0.25, 2.8284270763397217)
    """
    if not MIN_STEP_INDEX <= index <= MAX_STEP_INDEX:
        raise CodecError.of("step index", index, f"{MIN_STEP_INDEX} to {MAX_STEP_INDEX}")
    return float(step_sizes(np.array([index]))[0])


def dequantise(symbols: NDArray[np.int32], step_indices: NDArray[Any]) -> NDArray[np.float32]:
    """Return k Δ, bit for bit the same everywhere: k is exact in float32, so the one rounding is that of the product.

    Args:
        symbols: k, |k| <= `MAX_SYMBOL`, shape [rows, length].
        step_indices: One per row.
    """
    return symbols.astype(np.float32) * step_sizes(np.asarray(step_indices))[:, None]
