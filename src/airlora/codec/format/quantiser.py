r"""Uniform mid-tread quantiser with steps on a logarithmic grid.

$$\hat x = k \Delta_e, \qquad \Delta_e = 2^{e/16}$$

Notation: k symbol, an integer; e step index, an integer; Δ_e step.

Decoding is bit-identical on every machine. The 16 mantissas of the steps are float32 literals and are scaled by exact
powers of two, so no library function with platform-dependent rounding takes part. Neighbouring steps differ by 0.38 dB.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_STEP_INDEX", "MAX_SYMBOL", "MIN_STEP_INDEX", "STEPS_PER_OCTAVE", "dequantise", "step_sizes"]

STEPS_PER_OCTAVE = 16
MIN_STEP_INDEX = -1024
MAX_STEP_INDEX = 1023
MAX_SYMBOL = (1 << 18) - 1
"""Largest magnitude of a symbol. Every symbol is exact in float32."""

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
    """Return the steps Δ_e of step indices e. Each step is exact: a float32 literal times a power of two.

    Args:
        indices: Step indices, integers from -1024 to 1023, any shape.

    Examples:
        >>> step_sizes(np.array([0, -32, 24])).tolist()
        [1.0, 0.25, 2.8284270763397217]
    """
    octave, mantissa = np.divmod(np.asarray(indices, dtype=np.int64), STEPS_PER_OCTAVE)
    return np.ldexp(_MANTISSAS[mantissa], octave.astype(np.int32)).astype(np.float32)


def dequantise(symbols: NDArray[np.int32], step_indices: NDArray[Any]) -> NDArray[np.float32]:
    """Return the decoded values k Δ. The product is the only operation that rounds.

    Args:
        symbols: Symbols k with |k| <= `MAX_SYMBOL`, int32 [rows, length].
        step_indices: Step index of each row, [rows].
    """
    return symbols.astype(np.float32) * step_sizes(np.asarray(step_indices))[:, None]
