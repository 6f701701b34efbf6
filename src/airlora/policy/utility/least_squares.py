"""Ridge least squares where some weights must not be negative."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, minimize

__all__ = ["ridge_least_squares"]

Floats = npt.NDArray[np.float64]


def ridge_least_squares(
    gram: Floats, moment: Floats, penalty: Floats, lower: Floats, start: Floats | None = None
) -> Floats:
    r"""Return the weights of least squared error plus ridge, each at least its lower bound.

    $$\min_w\ \tfrac12 w^\top G w - m^\top w + \tfrac12 \sum_i \mu_i w_i^2 \quad\text{s.t.}\quad w_i \ge l_i$$

    Notation: G gram, X'X; m moment, X'y; mu penalty; l lower.

    Columns are scaled to unit size first, or the bounded quasi-Newton method (L-BFGS-B) would crawl.

    Args:
        gram: Float [F, F], positive semi-definite.
        moment: Float [F].
        penalty: Float [F], > 0 where a column may be all zero.
        lower: Float [F], 0 or minus infinity.
        start: Where to start from, such as the weights of fewer measurements; default 0.

    Returns:
        Float [F].
    """
    scale = 1.0 / np.sqrt(np.diag(gram) + penalty)
    scaled = gram * scale[:, None] * scale[None, :]
    scaled[np.diag_indices_from(scaled)] += penalty * scale * scale
    target = moment * scale

    def value_and_slope(weights: Floats) -> tuple[float, Floats]:
        product = scaled @ weights
        return float(weights @ (0.5 * product - target)), product - target

    first = np.zeros(len(moment)) if start is None else start / scale
    tolerance = 1e-9 * max(1e-12, float(np.abs(target).max()))
    result = minimize(
        value_and_slope,
        np.maximum(first, lower),
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(lower, np.inf),
        options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-12, "gtol": tolerance},
    )
    weights: Floats = result.x * scale
    return weights
