"""Ridge least squares with lower bounds on the weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg

__all__ = ["ridge_least_squares"]

Floats = npt.NDArray[np.float64]

PATIENCE = 5
"""Number of full exchanges without progress before the algorithm exchanges one weight at a time."""


def ridge_least_squares(
    gram: Floats, moment: Floats, penalty: Floats, lower: Floats, start: Floats | None = None
) -> Floats:
    r"""Return the weights that minimise squared error plus ridge subject to lower bounds, [F].

    $$\min_w\ \tfrac12 w^\top G w - m^\top w + \tfrac12 \sum_i \mu_i w_i^2 \quad\text{s.t.}\quad w_i \ge l_i$$

    Notation: G gram, X'X; m moment, X'y; mu penalty; l lower.

    Block principal pivoting partitions the weights into free ones and ones at their bound.  Each iteration solves the
    linear equations of the free weights.  Free weights below their bound and bound weights with a negative gradient
    then change sides.  If `PATIENCE` exchanges do not reduce the number of violations, only the last violating weight
    changes sides, which prevents cycles.  The result is exact up to rounding.  It takes about ten factorisations.

    Args:
        gram: Gram matrix of the columns, positive semi-definite, float [F, F].
        moment: Inner products of the columns with the target, float [F].
        penalty: Ridge of each weight, float [F], > 0 where a column may be all zero.
        lower: Lower bound of each weight, 0 or minus infinity, float [F].
        start: Initial weights, float [F], such as those of a similar problem.  Weights above their bound start free.
            None starts with the unbounded weights and those with a positive moment.

    Source: Kim and Park, "Fast nonnegative matrix factorization: an active-set-like method and comparisons", SIAM
    Journal on Scientific Computing 33(6), 2011, section 4.
    """
    # Columns are scaled to unit norm, because rounding errors would dominate the small ones.
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
        violated = bounded & np.where(free, weights < -tolerance, slope < -tolerance)
        count = int(violated.sum())
        if not count:
            break
        if count < fewest:
            fewest, patience = count, PATIENCE
        elif patience:
            patience -= 1
        else:
            violated[: np.flatnonzero(violated)[-1]] = False
        free ^= violated
    result: Floats = np.where(bounded, np.maximum(weights, 0.0), weights) * scale
    return result


def _solve(matrix: Floats, right: Floats) -> Floats:
    """Return the solution x of matrix x = right; the matrix is positive definite except for rounding errors."""
    try:
        solved: Floats = scipy.linalg.cho_solve(scipy.linalg.cho_factor(matrix), right)
    except np.linalg.LinAlgError:
        solved = scipy.linalg.lstsq(matrix, right)[0]
    return solved
