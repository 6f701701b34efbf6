"""Fit of the utility model: held-out measurements choose its form, and an ensemble estimates its uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import scipy.linalg

from airlora.errors import PolicyError
from airlora.observation import IntArray
from airlora.policy.utility.features import NO_PAIRS, Features, level_columns, rank_knots
from airlora.policy.utility.forms import FORMS, Form, verify_forms
from airlora.policy.utility.least_squares import ridge_least_squares
from airlora.policy.utility.model import Floats, UtilityModel

__all__ = ["Measurements", "UtilityFit", "fit_utility"]

NUM_FOLDS = 10
"""Number of folds of the measurements.  All fits use sums of the folds' second moments."""

HELD_OUT_FOLDS = 2

MAX_ERROR_RATIO = 0.99
"""A form replaces a simpler one if its held-out error is below this share of the simpler form's error."""

MIN_TO_CHOOSE = 100
"""Smallest number of measurements for the choice of a form.  With fewer, the first form is used."""


@dataclass(frozen=True)
class Measurements:
    """Measured losses of rank patterns.

    Args:
        ranks: Rank patterns, int64 [N, num_modules].
        losses: Measured losses, nats, [N].
        texts: Text state of each measurement, scaled as in the state vector, [N, 2].

    Raises:
        PolicyError: There is no measurement, or a loss is not finite.
    """

    ranks: IntArray
    losses: Floats
    texts: Floats

    def __post_init__(self) -> None:
        if not len(self.losses):
            raise PolicyError("no measured losses to fit a utility model to: let the policy explore first")
        if not np.isfinite(self.losses).all():
            raise PolicyError("losses: allowed are finite numbers")


@dataclass(frozen=True)
class UtilityFit:
    """Fitted utility model with its ensemble and its errors.

    Args:
        model: Model fitted to all measurements.
        members: Models fitted to resampled folds; their spread estimates the uncertainty.
        form: Name of the chosen form, a key of `FORMS`.
        residual_std: Root mean square of the residuals of all measurements, nats.
        held_out_std: Root mean square of the held-out residuals of each form, nats.  Empty if no form was chosen.
    """

    model: UtilityModel
    members: tuple[UtilityModel, ...]
    form: str
    residual_std: float
    held_out_std: dict[str, float]


def fit_utility(
    measured: Measurements,
    *,
    r_max: int,
    ridge: float,
    forms: tuple[str, ...],
    num_members: int,
    generator: np.random.Generator,
    importance: Floats | None = None,
) -> UtilityFit:
    r"""Return the utility model fitted to measured losses by ridge least squares.

    $$U(r, x) = u(x) - D(r, x)$$

    Notation: U loss; r ranks; x text state; u loss level of a text at rank 0; D `UtilityModel`.

    u has a free value for each distinct text if these are few (fixed batches); otherwise u is linear in the text state.
    A first fit of the curves without couplings gives the shapes that the text and coupling columns use.

    Args:
        measured: Measured losses, one or more.
        r_max: Largest rank.
        ridge: Ridge of the curves, relative to the mean squared norm of their columns.  It shrinks gains that few
            measurements support.
        forms: Names of the candidate forms, keys of `FORMS`, simplest first.
        num_members: Number of ensemble members.
        generator: NumPy generator that draws the folds and the ensemble.
        importance: Prior importance of every rank, cumulated over components, in any unit, [num_modules, r_max + 1].
            Its scale is fitted, and the ridge shrinks the curves towards it instead of towards 0.

    Raises:
        PolicyError: A form is unknown.
    """
    verify_forms(forms)
    count = len(measured.losses)
    features = _shape_features(measured, r_max, ridge, importance, forms)
    system = _System.of(measured, features)
    folds = generator.permutation(np.arange(count) % NUM_FOLDS)
    moments = np.stack([system.moments(folds == fold) for fold in range(NUM_FOLDS)])
    total = moments.sum(axis=0)
    held_out: dict[str, float] = {}
    best = forms[0]
    if len(forms) > 1 and count >= MIN_TO_CHOOSE:
        test = moments[:HELD_OUT_FOLDS].sum(axis=0)
        for name in forms:
            weights = system.solve(total - test, FORMS[name], ridge)
            held_out[name] = math.sqrt(system.squared_error(test, weights) / int((folds < HELD_OUT_FOLDS).sum()))
        for name in forms:
            if held_out[name] < MAX_ERROR_RATIO * held_out[best]:
                best = name
    weights = system.solve(total, FORMS[best], ridge)
    members = []
    for _ in range(num_members):
        times = generator.multinomial(NUM_FOLDS, np.full(NUM_FOLDS, 1.0 / NUM_FOLDS)).astype(np.float64)
        drawn = np.tensordot(times, moments, axes=1)
        members.append(_unpack(system.solve(drawn, FORMS[best], ridge, start=weights), features, r_max))
    return UtilityFit(
        model=_unpack(weights, features, r_max),
        members=tuple(members),
        form=best,
        residual_std=math.sqrt(system.squared_error(total, weights) / count),
        held_out_std=held_out,
    )


@dataclass(frozen=True)
class _System:
    """Least-squares problem in terms of second moments; the targets are the negative losses.

    Args:
        measured: N measurements.
        levels: Columns of the loss levels of the texts, [N, L].
        features: Definition of the other F columns.  `moments` computes them for its rows only, because all rows at
            once take hundreds of megabytes.
        block_sizes: Number of columns of each block, in order, with sum F.
    """

    measured: Measurements
    levels: Floats
    features: Features
    block_sizes: dict[str, int]

    @classmethod
    def of(cls, measured: Measurements, features: Features) -> Self:
        return cls(measured, level_columns(measured.texts), features, features.sizes())

    def moments(self, rows: npt.NDArray[np.bool_]) -> Floats:
        """Return the second moments of (target, levels, columns) over some rows, [1 + L + F, 1 + L + F]."""
        columns = self.features.columns(self.measured.ranks[rows], self.measured.texts[rows])
        design = np.column_stack([-self.measured.losses[rows], self.levels[rows], columns])
        product: Floats = design.T @ design
        return product

    def solve(self, moments: Floats, form: Form, ridge: float, start: Floats | None = None) -> Floats:
        """Return the weights of levels and columns, [L + F]; weights of blocks outside the form are 0."""
        free, bounded = self._choose(moments, form, ridge)
        inner = moments[np.ix_(free.rows, free.rows)] + np.diag(free.penalty)
        cross = moments[np.ix_(free.rows, bounded.rows)]
        # Columns without a sign constraint are eliminated exactly.  The bounded fit then has the curves only.
        solved = _solve_scaled(inner, np.column_stack([moments[free.rows, 0], cross]))
        gram = moments[np.ix_(bounded.rows, bounded.rows)] - cross.T @ solved[:, 1:]
        moment = moments[bounded.rows, 0] - cross.T @ solved[:, 0]
        # The column of a rank that never varied is a combination of the levels.  Its residual comes from their ridge of
        # 1e-9 and is set to 0.
        varied = np.diag(gram) > 1e-8 * np.maximum(np.diag(moments)[bounded.rows], 1e-300)
        gram[~varied], gram[:, ~varied], moment[~varied] = 0.0, 0.0, 0.0
        weights = np.zeros(len(moments))
        initial = None if start is None else start[bounded.rows - 1]
        curve_weights = ridge_least_squares(gram, moment, bounded.penalty, np.zeros(len(moment)), initial)
        weights[bounded.rows] = curve_weights
        weights[free.rows] = solved[:, 0] - solved[:, 1:] @ curve_weights
        return weights[1:]

    def squared_error(self, moments: Floats, weights: Floats) -> float:
        """Return the sum of squared errors over the rows of the moments."""
        signed = np.concatenate([[-1.0], weights])
        return max(0.0, float(signed @ moments @ signed))

    def _choose(self, moments: Floats, form: Form, ridge: float) -> tuple[_Columns, _Columns]:
        """Return the columns without a sign constraint (levels, text, pairs) and those with weights >= 0."""
        num_levels = self.levels.shape[1]
        diagonal = np.diag(moments)
        level_rows = np.arange(1, 1 + num_levels)
        level_penalty = np.full(num_levels, 1e-9 * max(float(diagonal[level_rows].mean()), 1e-300))
        free = [_Columns(level_rows, level_penalty)]
        bounded: list[_Columns] = []
        start = 1 + num_levels
        for block, size in self.block_sizes.items():
            rows = np.arange(start, start + size)
            start += size
            if not size or (block != "importance" and block not in form.blocks):
                continue
            # The block of the prior importance is one column, which needs no ridge.
            shares = {"curves": ridge * form.stiffness, "text": form.text_penalty, "pairs": form.penalty}
            share = shares.get(block, 0.0)
            penalty = np.full(size, max(share, 1e-9) * max(float(diagonal[rows].mean()), 1e-300))
            (bounded if block in ("curves", "importance") else free).append(_Columns(rows, penalty))
        return _Columns.joined(free), _Columns.joined(bounded)


@dataclass(frozen=True)
class _Columns:
    """Columns of a least-squares problem: their indices in the moments, and their ridge."""

    rows: IntArray
    penalty: Floats

    @classmethod
    def joined(cls, sets: list[_Columns]) -> _Columns:
        return cls(np.concatenate([one.rows for one in sets]), np.concatenate([one.penalty for one in sets]))


def _solve_scaled(matrix: Floats, right: Floats) -> Floats:
    """Return the solution x of matrix x = right after scaling the positive definite matrix to a unit diagonal."""
    scale = 1.0 / np.sqrt(np.diag(matrix))[:, None]
    solved: Floats = scale * scipy.linalg.solve(matrix * scale * scale.T, scale * right, assume_a="pos")
    return solved


def _shape_features(
    measured: Measurements, r_max: int, ridge: float, importance: Floats | None, forms: tuple[str, ...]
) -> Features:
    """Return the columns with the curve shapes of two successive fits.

    The first fit has curves only, so effects of the text distort its shapes.  The second fit includes the text.  Forms
    with no block besides the curves need no shapes.
    """
    knots = rank_knots(r_max)
    ranks, texts = measured.ranks, measured.texts
    features = Features.of(np.zeros((ranks.shape[1], r_max + 1)), knots, texts, importance)
    if all(FORMS[name].blocks == ("curves",) for name in forms):
        return replace(features, pairs=NO_PAIRS, text_scale=np.zeros(0))
    folds = np.arange(len(ranks)) % NUM_FOLDS
    for form in (FORMS["separable"], FORMS["text"]):
        # Unused columns are omitted to save time.
        scale = features.text_scale if "text" in form.blocks else np.zeros(0)
        features = replace(features, pairs=NO_PAIRS, text_scale=scale)
        system = _System.of(measured, features)
        moments = sum((system.moments(folds == fold) for fold in range(1, NUM_FOLDS)), system.moments(folds == 0))
        columns = system.solve(moments, form, ridge)[system.levels.shape[1] :]
        features = Features.of(_curves(columns, features, r_max), knots, texts, importance)
    return features


def _curves(weights: Floats, features: Features, r_max: int) -> Floats:
    """Return the curves that follow from the weights of the blocks `curves` and `importance`."""
    split = features.sizes()["curves"]
    steps = np.minimum(np.arange(r_max + 1), features.knots[:, None])
    table: Floats = weights[:split].reshape(features.num_modules, -1) @ steps
    return table if features.importance is None else table + weights[split] * features.importance


def _unpack(weights: Floats, features: Features, r_max: int) -> UtilityModel:
    """Return the utility model of the weights of levels and columns."""
    sizes = features.sizes()
    num_modules = features.num_modules
    columns = weights[len(weights) - sum(sizes.values()) :]
    own, scale, text, pairs = np.split(columns, np.cumsum(list(sizes.values()))[:-1])
    coupling = np.zeros((num_modules, num_modules))
    coupling[features.pairs] = pairs
    return UtilityModel(
        curves=_curves(np.concatenate([own, scale]), features, r_max),
        text_curves=(text.reshape(-1, num_modules) / features.text_scale[:, None])[:, :, None] * features.scaled_curves,
        text_mean=features.text_mean,
        feature_mean=features.feature_mean,
        text_range=features.text_range,
        basis=features.basis,
        coupling=coupling + coupling.T,
    )
