"""Which component of an earlier adapter each new one resembles, and what is left between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Match", "match_components"]

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Match:
    """The nearest earlier components.

    Args:
        indices: Of the earlier component for each new one, shape [r].
        signs: 1 or -1 for each new one: times u and v it is nearer to the earlier one, shape [r].
        held_u: The earlier u, as rows, shape [r, d_out].
        held_v: The earlier v, shape [r, d_in].
    """

    indices: NDArray[np.int64]
    signs: Array
    held_u: Array
    held_v: Array


def match_components(u: Array, v: Array, earlier: tuple[Array, Array]) -> Match | None:
    """Return the earlier component nearest to each new one, or None if there are none.

    The pair (-u, -v) is the same component as (u, v); the sign nearer to the earlier one is taken.

    Args:
        u: Rows of the new adapter, shape [r, d_out], balanced.
        v: Shape [r, d_in].
        earlier: U [d_out, s] and V [s, d_in] that the device holds.
    """
    U, V = earlier
    if V.shape[0] == 0 or len(u) == 0:
        return None
    along_u, along_v = u @ U, v @ V.T
    signs = np.where(along_u + along_v < 0, -1, 1).astype(np.float32)
    # |u - s U|^2 + |v - s V|^2 without forming it
    energies = np.einsum("dk,dk->k", U, U) + np.einsum("kd,kd->k", V, V)
    gaps = energies[None] - 2 * np.abs(along_u + along_v)
    indices = np.argmin(gaps, axis=1).astype(np.int64)
    return Match(indices, signs[np.arange(len(u)), indices], U.T[indices], V[indices])
