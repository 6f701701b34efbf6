"""Concave loss curves per module, fitted to measured losses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

from airlora.errors import PolicyError
from airlora.observation import IntArray

__all__ = ["CurveFit", "fit_curves", "rank_knots"]

Floats = npt.NDArray[np.float64]

MAX_LEVELS = 64
"""Texts are given a loss level each when no more than this many different ones were measured."""


@dataclass(frozen=True, slots=True)
class CurveFit:
    """What was fitted.

    Args:
        gains: How far component k + 1 of each module lowers the loss, nats, [num_modules, r_max], >= 0, not rising.
        residual_std: Of the measurements around the fit, nats.
        num_measurements: How many there were.
    """

    gains: Floats
    residual_std: float
    num_measurements: int


def rank_knots(r_max: int) -> IntArray:
    """Return the ranks at which a curve may bend: every rank up to 4, then about six per octave of growth, and r_max.

    >>> rank_knots(16).tolist()
    [1, 2, 3, 4, 6, 8, 12, 16]
    """
    knots, step = [1, 2, 3, 4], 6
    while step < r_max:
        knots += [step, step * 4 // 3]
        step *= 2
    return np.asarray(sorted({knot for knot in knots if knot < r_max} | {r_max}), dtype=np.int64)


def fit_curves(ranks: IntArray, losses: Floats, texts: Floats, *, r_max: int, ridge: float) -> CurveFit:
    r"""Return the concave curves that explain the losses best.

    $$U(r, x) = u(x) - \sum_m g_m(r_m), \qquad g_m(r) = \sum_j w_{mj} \min(r, k_j), \quad w_{mj} \ge 0$$

    Notation: r ranks; U losses; x texts; k_j `rank_knots`; u the level of a text.

    Every sum of min(r, k) with weights >= 0 is concave, rises, and starts at 0, and every such piecewise linear
    curve is one. u is free per different text while those are few (fixed batches), else linear in the text state.
    Weights come from non-negative least squares on the normal equations, with a ridge against patterns that were rarely
    measured.

    Args:
        ranks: Measured patterns, int64 [num_measurements, num_modules].
        losses: Their losses, nats [num_measurements].
        texts: Text state of each, [num_measurements, any].
        r_max: Largest rank.
        ridge: Of the weights, as a share of the mean squared column.

    Raises:
        PolicyError: There is no measurement, or a loss is not finite.
    """
    if not len(losses):
        raise PolicyError("no measured loss to fit curves to: let the policy explore first")
    if not np.isfinite(losses).all():
        raise PolicyError("losses: allowed are finite numbers")
    knots = rank_knots(r_max)
    num_modules = ranks.shape[1]
    design = np.minimum(ranks[:, :, None], knots[None, None, :]).reshape(len(ranks), -1).astype(np.float64)
    levels = _levels(texts)
    basis, _ = np.linalg.qr(levels)
    # A column that the levels explain wholly (a rank that never moved) leaves rounding errors, not information.
    before = np.linalg.norm(design, axis=0)
    design -= basis @ (basis.T @ design)
    moved = np.linalg.norm(design, axis=0) > 1e-9 * before
    drops = -(losses - basis @ (basis.T @ losses))
    weights = np.zeros(design.shape[1])
    weights[moved] = _ridge_nnls(design[:, moved], drops, ridge)
    slopes = weights.reshape(num_modules, len(knots))
    active = np.arange(1, r_max + 1)[None, :] <= knots[:, None]
    residual = drops - design @ weights
    freedom = max(1, len(losses) - levels.shape[1])
    return CurveFit(
        gains=slopes @ active,
        residual_std=float(np.sqrt(residual @ residual / freedom)),
        num_measurements=len(losses),
    )


def _ridge_nnls(design: Floats, target: Floats, ridge: float) -> Floats:
    """Return the weights >= 0 of least squared error plus ridge, from the Cholesky factor of the normal equations."""
    if not design.shape[1]:
        return np.zeros(0)
    gram = design.T @ design
    gram[np.diag_indices_from(gram)] += max(ridge, 1e-9) * float(np.mean(np.diag(gram)))
    lower = np.linalg.cholesky(gram)
    weights: Floats = nnls(lower.T, solve_triangular(lower, design.T @ target, lower=True))[0]
    return weights


def _levels(texts: Floats) -> Floats:
    """Return the free columns: one per different text while those are few, else an intercept and the text state."""
    different, which = np.unique(texts, axis=0, return_inverse=True)
    if len(different) <= min(MAX_LEVELS, len(texts) // 4):
        return np.eye(len(different))[which.reshape(-1)]
    centred = texts - texts.mean(axis=0)
    spread = centred.std(axis=0)
    return np.column_stack([np.ones(len(texts)), centred[:, spread > 0] / spread[spread > 0]])
