"""Conversion between ranks and the unit range [-1, 1] of Gaussians and diffusion (Eq. 18)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from airlora.errors import PolicyError
from airlora.observation import FloatArray, IntArray

__all__ = ["ranks_to_unit", "unit_to_ranks"]


def ranks_to_unit(ranks: npt.ArrayLike, r_max: int) -> FloatArray:
    r"""Return the middle of each rank's interval in [-1, 1].

    $$x = \frac{2 (r + 1/2)}{r_{max} + 1} - 1$$

    Notation: r ranks; x the result.

    [-1, 1] is divided into r_max + 1 equal intervals, one per rank. Every rank is therefore equally likely under a
    uniform x, and no middle lies on an edge. The paper does not state its scaling (erratum 8).

    Args:
        ranks: Ranks from 0 to r_max, any shape. Fractional ranks lie between the middles.
        r_max: Largest rank, >= 1.

    Returns:
        Unit coordinates, float32, same shape, within (-1, 1).

    Raises:
        PolicyError: `r_max` is below 1.

    Examples:
        >>> ranks_to_unit([0, 1, 3], r_max=3)
        array([-0.75, -0.25,  0.75], dtype=float32)
    """
    _verify_r_max(r_max)
    unit: FloatArray = (2.0 * (np.asarray(ranks, dtype=np.float64) + 0.5) / (r_max + 1) - 1.0).astype(np.float32)
    return unit


def unit_to_ranks(unit: npt.ArrayLike, r_max: int) -> IntArray:
    r"""Return the rank of the interval that contains each number (Eq. 18).

    $$\tilde a = \mathrm{clip}\left(\lfloor \tfrac{x + 1}{2} (r_{max} + 1) \rfloor,\ 0,\ r_{max}\right)$$

    Notation: x unit; a~ the result.

    Args:
        unit: Unit coordinates, finite, any shape. Numbers outside [-1, 1] are clipped.
        r_max: Largest rank, >= 1.

    Returns:
        Ranks, int64, same shape, 0 to r_max. They do not decrease with `unit` and invert `ranks_to_unit` at every rank.

    Raises:
        PolicyError: `r_max` is below 1, or a number is not finite.

    Source: AirLLM Eq. 18, with the scaling of `ranks_to_unit`.

    Examples:
        >>> unit_to_ranks([-7.0, -0.75, 0.0, 1.0], r_max=3)
        array([0, 0, 2, 3])
    """
    _verify_r_max(r_max)
    values = np.asarray(unit, dtype=np.float64)
    if not np.isfinite(values).all():
        raise PolicyError.of("vector to decode into ranks", values, "finite numbers")
    floored = np.floor((values + 1.0) / 2.0 * (r_max + 1))
    ranks: IntArray = np.clip(floored, 0, r_max).astype(np.int64)
    return ranks


def _verify_r_max(r_max: int) -> None:
    if r_max < 1:
        raise PolicyError.of("r_max", r_max, "a whole number, 1 or more")
