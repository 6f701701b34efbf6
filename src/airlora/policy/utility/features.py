"""The columns that measured losses are explained by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from airlora.observation import IntArray
from airlora.policy.utility.model import Floats, text_features

__all__ = ["MAX_LEVELS", "NO_PAIRS", "Features", "coupled_pairs", "level_columns", "rank_knots", "saturating_basis"]

MAX_LEVELS = 64
"""Texts are given a loss level each when no more than this many different ones were measured."""

MAX_COUPLED = 40
"""Modules among which couplings are looked for, the most useful ones: pairs grow with the square."""

NO_PAIRS: tuple[IntArray, IntArray] = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
"""As `coupled_pairs`, of nothing."""

USELESS_SHARE = 1e-3
"""A curve below this share of the largest says nothing about its own shape."""


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


def level_columns(texts: Floats) -> Floats:
    """Return the free columns: one per different text while those are few, else an intercept and the text state."""
    different, which = np.unique(texts, axis=0, return_inverse=True)
    if len(different) <= min(MAX_LEVELS, len(texts) // 4):
        return np.eye(len(different))[which.reshape(-1)]
    centred = texts - texts.mean(axis=0)
    spread = centred.std(axis=0)
    return np.column_stack([np.ones(len(texts)), centred[:, spread > 0] / spread[spread > 0]])


def saturating_basis(curves: Floats) -> Floats:
    """Return every curve's shape, [num_modules, r_max + 1] from 0 to 1; a standard one where the curve is flat."""
    ranks = np.arange(curves.shape[1])
    standard = (1.0 - np.exp(-ranks / 4.0)) / (1.0 - np.exp(-ranks[-1] / 4.0))
    height = curves[:, -1:]
    useful = height > USELESS_SHARE * max(float(height.max()), 1e-300)
    return np.where(useful, curves / np.where(useful, height, 1.0), standard)


def coupled_pairs(curves: Floats) -> tuple[IntArray, IntArray]:
    """Return the pairs (m < n) among which couplings are looked for."""
    chosen = np.sort(np.argsort(-curves[:, -1], kind="stable")[:MAX_COUPLED])
    first, second = np.triu_indices(len(chosen), 1)
    return chosen[first], chosen[second]


@dataclass(frozen=True)
class Features:
    """Which columns there are: `curves`, `prior`, `text`, `pairs`, in this order.

    Args:
        knots: See `rank_knots`.
        basis: See `saturating_basis`.
        worths: Every module's curve by the root of the curves' mean squared height, [num_modules, r_max + 1]: what a
            text changes is a share of what a module is worth, so one ridge on the shares suits all modules.
        text_mean: Mean text state, [2].
        feature_mean: Mean of each of `text_features`, [5]: off it, what never changed is no second curve.
        text_range: Least and largest text state, [2, 2].
        text_scale: Spread of each of `text_features`, [5], > 0; [0] leaves the text out.
        pairs: See `coupled_pairs`.
        prior: What every rank was believed to be worth before anything was measured, in whatever unit,
            [num_modules, r_max + 1]; none: nothing was.
    """

    knots: IntArray
    basis: Floats
    worths: Floats
    text_mean: Floats
    feature_mean: Floats
    text_range: Floats
    text_scale: Floats
    pairs: tuple[IntArray, IntArray]
    prior: Floats | None = None

    @classmethod
    def of(cls, curves: Floats, knots: IntArray, texts: Floats, prior: Floats | None) -> Self:
        """Return the columns whose shapes are those of curves found before, [num_modules, r_max + 1].

        Args:
            curves: Concave, rising from 0; couplings are looked for among the highest.
            knots: See `rank_knots`.
            texts: Of all measurements, [N, 2].
            prior: As the class's.
        """
        text_mean = texts.mean(axis=0)
        psi = text_features(texts - text_mean)
        spread = psi.std(axis=0)
        height = float(np.sqrt(np.mean(curves[:, -1] ** 2)))
        return cls(
            knots=knots,
            basis=saturating_basis(curves),
            worths=curves / max(height, 1e-300),
            text_mean=text_mean,
            feature_mean=psi.mean(axis=0),
            text_range=np.stack([texts.min(axis=0), texts.max(axis=0)]),
            # A part that never changed leaves rounding, which is not to be scaled up.
            text_scale=np.where(spread > 1e-9 * np.abs(psi).max(axis=0), spread, np.inf),
            pairs=coupled_pairs(curves),
            prior=prior,
        )

    @property
    def num_modules(self) -> int:
        """Number of modules."""
        return len(self.basis)

    def sizes(self) -> dict[str, int]:
        """Return how many columns each block has."""
        return {
            "curves": self.num_modules * len(self.knots),
            "prior": int(self.prior is not None),
            "text": len(self.text_scale) * self.num_modules,
            "pairs": len(self.pairs[0]),
        }

    def columns(self, ranks: IntArray, texts: Floats) -> Floats:
        """Return all columns, [N, F], for ranks [N, num_modules] and texts [N, 2]."""
        modules = np.arange(self.num_modules)
        phi, worth = self.basis[modules, ranks], self.worths[modules, ranks]
        psi = (text_features(texts - self.text_mean) - self.feature_mean)[:, : len(self.text_scale)] / self.text_scale
        first, second = self.pairs
        return np.column_stack(
            [
                curve_columns(ranks, self.knots),
                prior_columns(ranks, self.prior),
                (psi[:, :, None] * worth[:, None, :]).reshape(len(ranks), psi.shape[1] * self.num_modules),
                phi[:, first] * phi[:, second],
            ]
        )


def curve_columns(ranks: IntArray, knots: IntArray) -> Floats:
    """Return min(r_m, k_j), [N, num_modules * num_knots].

    Every sum of them with weights >= 0 is concave, rises and starts at 0, and every such piecewise linear curve is one.
    """
    return np.minimum(ranks[:, :, None], knots).reshape(len(ranks), ranks.shape[1] * len(knots)).astype(np.float64)


def prior_columns(ranks: IntArray, prior: Floats | None) -> Floats:
    """Return what a pattern was believed to be worth, [N, 1]; [N, 0] without a belief."""
    if prior is None:
        return np.zeros((len(ranks), 0))
    believed: Floats = prior[np.arange(len(prior)), ranks].sum(axis=1, keepdims=True)
    return believed
