"""Regression columns of the utility model's fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from airlora.observation import IntArray
from airlora.policy.utility.model import Floats, text_features

__all__ = ["MAX_LEVELS", "NO_PAIRS", "Features", "coupled_pairs", "level_columns", "rank_knots", "saturating_basis"]

MAX_LEVELS = 64
"""Largest number of distinct texts for which each text has a loss level of its own."""

MAX_COUPLED = 40
"""Largest number of modules whose pairs may have couplings.  The modules with the highest curves are chosen."""

NO_PAIRS: tuple[IntArray, IntArray] = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
"""Empty result of `coupled_pairs`."""

MIN_HEIGHT_RATIO = 1e-3
"""Smallest height of a curve whose shape is used, as a share of the highest curve."""


def rank_knots(r_max: int) -> IntArray:
    """Return the ranks at which the slope of a curve may change: 1 to 4, then two per doubling of the rank, and r_max.

    Examples:
        >>> rank_knots(16).tolist()
        [1, 2, 3, 4, 6, 8, 12, 16]
    """
    knots, step = [1, 2, 3, 4], 6
    while step < r_max:
        knots += [step, step * 4 // 3]
        step *= 2
    return np.asarray(sorted({knot for knot in knots if knot < r_max} | {r_max}), dtype=np.int64)


def level_columns(texts: Floats) -> Floats:
    """Return the columns of the loss level of each text, [N, L].

    Few distinct texts have an indicator column each.  Otherwise the columns are an intercept and the standardised text
    state.

    Args:
        texts: Text states of the measurements, [N, 2].
    """
    distinct, which = np.unique(texts, axis=0, return_inverse=True)
    if len(distinct) <= min(MAX_LEVELS, len(texts) // 4):
        return np.eye(len(distinct))[which.reshape(-1)]
    centred = texts - texts.mean(axis=0)
    spread = centred.std(axis=0)
    return np.column_stack([np.ones(len(texts)), centred[:, spread > 0] / spread[spread > 0]])


def saturating_basis(curves: Floats) -> Floats:
    """Return the curves scaled to height 1, [num_modules, r_max + 1]; flat curves get an exponential default shape.

    Args:
        curves: Curves from 0 at rank 0, [num_modules, r_max + 1].
    """
    ranks = np.arange(curves.shape[1])
    default = (1.0 - np.exp(-ranks / 4.0)) / (1.0 - np.exp(-ranks[-1] / 4.0))
    height = curves[:, -1:]
    has_shape = height > MIN_HEIGHT_RATIO * max(float(height.max()), 1e-300)
    return np.where(has_shape, curves / np.where(has_shape, height, 1.0), default)


def coupled_pairs(curves: Floats) -> tuple[IntArray, IntArray]:
    """Return the pairs (m, n), m < n, of the `MAX_COUPLED` highest curves, int64 [P] each.

    Args:
        curves: Curves of all modules, [num_modules, r_max + 1].
    """
    chosen = np.sort(np.argsort(-curves[:, -1], kind="stable")[:MAX_COUPLED])
    first, second = np.triu_indices(len(chosen), 1)
    return chosen[first], chosen[second]


@dataclass(frozen=True)
class Features:
    """Definition of the regression columns: blocks `curves`, `importance`, `text` and `pairs`, in this order.

    Args:
        knots: Ranks at which curves may bend, see `rank_knots`, int64 [num_knots].
        basis: Shape of every curve, see `saturating_basis`, [num_modules, r_max + 1].
        scaled_curves: Curves divided by the root mean square of their heights, [num_modules, r_max + 1].  The text
            scales these curves, so one ridge suits all modules.
        text_mean: Mean text state, [2].
        feature_mean: Mean of each of the `text_features`, [5].  Centred columns vanish for features that never change.
        text_range: Smallest and largest text state, [2, 2].
        text_scale: Standard deviation of each of the `text_features`, [5], > 0.  Shape [0] omits the block `text`.
        pairs: Pairs of modules that may have couplings, see `coupled_pairs`.
        importance: Prior importance of every rank, cumulated over components, in any unit, [num_modules, r_max + 1].
            None omits the block `importance`.
    """

    knots: IntArray
    basis: Floats
    scaled_curves: Floats
    text_mean: Floats
    feature_mean: Floats
    text_range: Floats
    text_scale: Floats
    pairs: tuple[IntArray, IntArray]
    importance: Floats | None = None

    @classmethod
    def of(cls, curves: Floats, knots: IntArray, texts: Floats, importance: Floats | None) -> Self:
        """Return the columns that have the shapes of previously fitted curves.

        Args:
            curves: Fitted curves, concave, from 0 at rank 0, [num_modules, r_max + 1].
            knots: Ranks at which curves may bend, int64 [num_knots].
            texts: Text states of all measurements, [N, 2].
            importance: Prior importance of every rank, or None; as in the class.
        """
        text_mean = texts.mean(axis=0)
        psi = text_features(texts - text_mean)
        spread = psi.std(axis=0)
        height = float(np.sqrt(np.mean(curves[:, -1] ** 2)))
        return cls(
            knots=knots,
            basis=saturating_basis(curves),
            scaled_curves=curves / max(height, 1e-300),
            text_mean=text_mean,
            feature_mean=psi.mean(axis=0),
            text_range=np.stack([texts.min(axis=0), texts.max(axis=0)]),
            # The spread of a constant feature is a rounding error, which must not be amplified.
            text_scale=np.where(spread > 1e-9 * np.abs(psi).max(axis=0), spread, np.inf),
            pairs=coupled_pairs(curves),
            importance=importance,
        )

    @property
    def num_modules(self) -> int:
        """Number of adapted modules."""
        return len(self.basis)

    def sizes(self) -> dict[str, int]:
        """Return the number of columns of each block."""
        return {
            "curves": self.num_modules * len(self.knots),
            "importance": int(self.importance is not None),
            "text": len(self.text_scale) * self.num_modules,
            "pairs": len(self.pairs[0]),
        }

    def columns(self, ranks: IntArray, texts: Floats) -> Floats:
        """Return all columns, [N, F].

        Args:
            ranks: Rank patterns, int64 [N, num_modules].
            texts: Text state of each pattern, [N, 2].
        """
        modules = np.arange(self.num_modules)
        phi, gain = self.basis[modules, ranks], self.scaled_curves[modules, ranks]
        psi = (text_features(texts - self.text_mean) - self.feature_mean)[:, : len(self.text_scale)] / self.text_scale
        first, second = self.pairs
        return np.column_stack(
            [
                curve_columns(ranks, self.knots),
                importance_column(ranks, self.importance),
                (psi[:, :, None] * gain[:, None, :]).reshape(len(ranks), psi.shape[1] * self.num_modules),
                phi[:, first] * phi[:, second],
            ]
        )


def curve_columns(ranks: IntArray, knots: IntArray) -> Floats:
    """Return the columns min(r_m, k_j), [N, num_modules * num_knots].

    Their sums with weights >= 0 are the concave, non-decreasing, piecewise linear curves from 0 with these knots.

    Args:
        ranks: Rank patterns r, int64 [N, num_modules].
        knots: Ranks k at which curves may bend, int64 [num_knots].
    """
    return np.minimum(ranks[:, :, None], knots).reshape(len(ranks), ranks.shape[1] * len(knots)).astype(np.float64)


def importance_column(ranks: IntArray, importance: Floats | None) -> Floats:
    """Return the prior importance of each pattern, [N, 1], or [N, 0] without a prior importance.

    Args:
        ranks: Rank patterns, int64 [N, num_modules].
        importance: Prior importance of every rank, [num_modules, r_max + 1], or None.
    """
    if importance is None:
        return np.zeros((len(ranks), 0))
    column: Floats = importance[np.arange(len(importance)), ranks].sum(axis=1, keepdims=True)
    return column
