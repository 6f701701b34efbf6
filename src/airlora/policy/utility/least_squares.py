"""Ridge least squares where some weights must not be negative."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg

__all__ = ["ridge_least_squares"]

Floats = npt.NDArray[np.float64]

PATIENCE = 5
"""Exchanges of whole sets that may fail to leave fewer weights wrong before they go one by one."""


def ridge_least_squares(
    gram: Floats, moment: Floats, penalty: Floats, lower: Floats, start: Floats | None = None
) -> Floats:
    r"""Return the weights of least squared error plus ridge, each at least its lower bound.

    $$\min_w\ \tfrac12 w^\top G w - m^\top w + \tfrac12 \sum_i \mu_i w_i^2 \quad\text{s.t.}\quad w_i \ge l_i$$

    Notation: G gram, X'X; m moment, X'y; mu penalty; l lower.

    Block principal pivoting: a guess of which weights are free gives them by linear equations; weights that come out
    below their bound are bound, bound ones whose slope asks for more are freed, until none is wrong.  Where a whole
    exchange leaves no fewer wrong, after some patience only the last of the wrong ones changes sides, which cannot
    cycle.  The end is exact to rounding, and comes after some ten factorisations whatever the condition.

    Args:
        gram: Float [F, F], positive semi-definite.
        moment: Float [F].
        penalty: Float [F], > 0 where a column may be all zero.
        lower: Float [F], 0 or minus infinity.
        start: Where to start from, such as the weights of fewer measurements: whatever is above its bound is free at
            first.  Default: what has no bound, and what the moment asks for.

    Returns:
        Float [F].

    Source: Kim and Park, "Fast nonnegative matrix factorization: an active-set-like method and comparisons", SIAM
    Journal on Scientific Computing 33(6), 2011, section 4.
    """
    # Columns of unit size, or rounding would hide the small ones.
    scale = 1.0 / np.sqrt(np.diag(gram) + penalty)
    scaled = gram * scale[:, None] * scale[None, :]
    scaled[np.diag_indices_from(scaled)] += penalty * scale * scale
    target = moment * scale
    tolerance = 1e-11 * max(1e-300, float(np.abs(target).max()))
    bounded = np.isfinite(lower)
    free = ~bounded | ((target > 0.0) if start is None else (start > lower))
    fewest, patience = len(target) + 1, PATIENCE
    for _ in range(20 * len(target) + 100):
        weights = np.zeros(len(target))
        weights[free] = _solve(scaled[np.ix_(free, free)], target[free])
        slope = scaled @ weights - target
        wrong = bounded & np.where(free, weights < -tolerance, slope < -tolerance)
        count = int(wrong.sum())
        if not count:
            break
        if count < fewest:
            fewest, patience = count, PATIENCE
        elif patience:
            patience -= 1
        else:
            wrong[: np.flatnonzero(wrong)[-1]] = False
        free ^= wrong
    result: Floats = np.where(bounded, np.maximum(weights, 0.0), weights) * scale
    return result


def _solve(matrix: Floats, right: Floats) -> Floats:
    """Return x of matrix x = right, positive definite but for rounding."""
    try:
        solved: Floats = scipy.linalg.cho_solve(scipy.linalg.cho_factor(matrix), right)
    except np.linalg.LinAlgError:
        solved = scipy.linalg.lstsq(matrix, right)[0]
    return solved
