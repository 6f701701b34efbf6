"""Fitting the utility model: its form by held-out measurements, its uncertainty by an ensemble."""

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
"""Measurements are dealt into so many folds, whose moments are all that the fits look at."""

HELD_OUT_FOLDS = 2

NOTICEABLE = 0.99
"""A form takes the place of a simpler one when its held-out error is below this share of the simpler one's."""

MIN_TO_CHOOSE = 100
"""With fewer measurements the form is not chosen: it is the simplest."""


@dataclass(frozen=True)
class Measurements:
    """Measured losses.

    Args:
        ranks: Patterns, int64 [N, num_modules].
        losses: Nats [N].
        texts: Text state of each as the state's vector has it, [N, 2].

    Raises:
        PolicyError: There is none, or a loss is not finite.
    """

    ranks: IntArray
    losses: Floats
    texts: Floats

    def __post_init__(self) -> None:
        if not len(self.losses):
            raise PolicyError("no measured loss to fit a utility model to: let the policy explore first")
        if not np.isfinite(self.losses).all():
            raise PolicyError("losses: allowed are finite numbers")


@dataclass(frozen=True)
class UtilityFit:
    """What was fitted.

    Args:
        model: The fit to all measurements.
        members: Fits to resampled folds; their spread is the uncertainty.
        form: Name of the form, see `FORMS`.
        residual_std: Of all measurements around the fit, nats.
        held_out_std: Of the held-out measurements around each form's fit to the others, nats; empty if none was made.
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
    prior: Floats | None = None,
) -> UtilityFit:
    r"""Return the utility model that explains the losses best.

    $$U(r, x) = u(x) - D(r, x)$$

    Notation: r ranks; x text; u the level of a text; D `UtilityModel`.

    u is free per different text while those are few (fixed batches), else linear in the text state.  Curves are
    fitted without couplings first; their shapes are what texts and couplings are expressed in.

    Args:
        measured: At least one measurement.
        r_max: Largest rank.
        ridge: Of the curves, as a share of the mean squared column: against patterns that were rarely measured.
        forms: Names from `FORMS` to choose among, simplest first.
        num_members: Of the ensemble.
        generator: Deals the folds and draws the ensemble's.
        prior: What every rank was believed to be worth, in whatever unit, [num_modules, r_max + 1]; its size is fitted,
            and the ridge pulls the curves towards it instead of towards 0.

    Raises:
        PolicyError: An unknown form.
    """
    verify_forms(forms)
    count = len(measured.losses)
    features = _shape_features(measured, r_max, ridge, prior, {block for name in forms for block in FORMS[name].blocks})
    system = _System.of(measured, features)
    folds = generator.permutation(np.arange(count) % NUM_FOLDS)
    moments = np.stack([system.moments(folds == fold) for fold in range(NUM_FOLDS)])
    total = moments.sum(axis=0)
    held_out: dict[str, float] = {}
    best = forms[0]
    if len(forms) > 1 and count >= MIN_TO_CHOOSE:
        held = moments[:HELD_OUT_FOLDS].sum(axis=0)
        for name in forms:
            weights = system.solve(total - held, FORMS[name], ridge)
            held_out[name] = math.sqrt(system.squared_error(held, weights) / int((folds < HELD_OUT_FOLDS).sum()))
        for name in forms:
            if held_out[name] < NOTICEABLE * held_out[best]:
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
    """Least squares by moments: targets explained by free levels and by columns in blocks.

    Args:
        measured: N measurements; targets are what the losses lack of 0.
        levels: Free columns, [N, L].
        features: The other columns, F of them.  They are made anew for the rows that are asked for: all at once would
            take hundreds of megabytes.
        block_sizes: Of the columns, in order; their sum is F.
    """

    measured: Measurements
    levels: Floats
    features: Features
    block_sizes: dict[str, int]

    @classmethod
    def of(cls, measured: Measurements, features: Features) -> Self:
        """Return the system of all measurements."""
        return cls(measured, level_columns(measured.texts), features, features.sizes())

    def moments(self, rows: npt.NDArray[np.bool_]) -> Floats:
        """Return the second moments of (target, levels, columns) over some rows, [1 + L + F, 1 + L + F]."""
        columns = self.features.columns(self.measured.ranks[rows], self.measured.texts[rows])
        everything = np.column_stack([-self.measured.losses[rows], self.levels[rows], columns])
        product: Floats = everything.T @ everything
        return product

    def solve(self, moments: Floats, form: Form, ridge: float, start: Floats | None = None) -> Floats:
        """Return the weights of levels and columns, [L + F], 0 in blocks that the form leaves out."""
        free, bounded = self._choose(moments, form, ridge)
        inner = moments[np.ix_(free.rows, free.rows)] + np.diag(free.penalty)
        cross = moments[np.ix_(free.rows, bounded.rows)]
        # Whatever may have any sign is eliminated exactly; the bounded fit is left with the curves.
        solved = _solve_scaled(inner, np.column_stack([moments[free.rows, 0], cross]))
        gram = moments[np.ix_(bounded.rows, bounded.rows)] - cross.T @ solved[:, 1:]
        moment = moments[bounded.rows, 0] - cross.T @ solved[:, 0]
        # A column that the levels explain wholly (a rank that never moved) leaves their ridge, 1e-9, not information.
        moved = np.diag(gram) > 1e-8 * np.maximum(np.diag(moments)[bounded.rows], 1e-300)
        gram[~moved], gram[:, ~moved], moment[~moved] = 0.0, 0.0, 0.0
        weights = np.zeros(len(moments))
        first = None if start is None else start[bounded.rows - 1]
        found = ridge_least_squares(gram, moment, bounded.penalty, np.zeros(len(moment)), first)
        weights[bounded.rows] = found
        weights[free.rows] = solved[:, 0] - solved[:, 1:] @ found
        return weights[1:]

    def squared_error(self, moments: Floats, weights: Floats) -> float:
        """Return the sum of squared errors over the rows that the moments are of."""
        signed = np.concatenate([[-1.0], weights])
        return max(0.0, float(signed @ moments @ signed))

    def _choose(self, moments: Floats, form: Form, ridge: float) -> tuple[_Columns, _Columns]:
        """Return the columns that may have any sign, levels among them, and those that may not be negative."""
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
            if not size or (block != "prior" and block not in form.blocks):
                continue
            # The size of the prior is one number, which needs no ridge.
            shares = {"curves": ridge * form.stiffness, "text": form.text_penalty, "pairs": form.penalty}
            share = shares.get(block, 0.0)
            penalty = np.full(size, max(share, 1e-9) * max(float(diagonal[rows].mean()), 1e-300))
            (bounded if block in ("curves", "prior") else free).append(_Columns(rows, penalty))
        return _Columns.joined(free), _Columns.joined(bounded)


@dataclass(frozen=True)
class _Columns:
    """Some columns of a system: their rows in its moments, and their ridge."""

    rows: IntArray
    penalty: Floats

    @classmethod
    def joined(cls, parts: list[_Columns]) -> _Columns:
        return cls(np.concatenate([part.rows for part in parts]), np.concatenate([part.penalty for part in parts]))


def _solve_scaled(matrix: Floats, right: Floats) -> Floats:
    """Return x of matrix x = right, positive definite; scaled first, as columns never moved have next to no size."""
    scale = 1.0 / np.sqrt(np.diag(matrix))[:, None]
    solved: Floats = scale * scipy.linalg.solve(matrix * scale * scale.T, scale * right, assume_a="pos")
    return solved


def _shape_features(
    measured: Measurements, r_max: int, ridge: float, prior: Floats | None, wanted: set[str]
) -> Features:
    """Return the columns, their shapes taken from a fit of curves and text, which takes its own from one of curves.

    What texts change is taken for curves where it is left out; so shapes are right only after the second fit.  Where no
    more than curves are wanted there is no shape to find.
    """
    knots = rank_knots(r_max)
    ranks, texts = measured.ranks, measured.texts
    features = Features.of(np.zeros((ranks.shape[1], r_max + 1)), knots, texts, prior)
    if wanted == {"curves"}:
        return replace(features, pairs=NO_PAIRS, text_scale=np.zeros(0))
    folds = np.arange(len(ranks)) % NUM_FOLDS
    for form in (FORMS["separable"], FORMS["text"]):
        # Columns that are not asked for would only take time.
        scale = features.text_scale if "text" in form.blocks else np.zeros(0)
        features = replace(features, pairs=NO_PAIRS, text_scale=scale)
        system = _System.of(measured, features)
        moments = sum((system.moments(folds == fold) for fold in range(1, NUM_FOLDS)), system.moments(folds == 0))
        columns = system.solve(moments, form, ridge)[system.levels.shape[1] :]
        features = Features.of(_curves(columns, features, r_max), knots, texts, prior)
    return features


def _curves(weights: Floats, features: Features, r_max: int) -> Floats:
    """Return the curves of the weights of the blocks "curves" and "prior", [num_modules, r_max + 1]."""
    split = features.sizes()["curves"]
    steps = np.minimum(np.arange(r_max + 1), features.knots[:, None])
    table: Floats = weights[:split].reshape(features.num_modules, -1) @ steps
    return table if features.prior is None else table + weights[split] * features.prior


def _unpack(weights: Floats, features: Features, r_max: int) -> UtilityModel:
    """Return the tables of the weights of levels and columns."""
    sizes = features.sizes()
    num_modules = features.num_modules
    columns = weights[len(weights) - sum(sizes.values()) :]
    own, believed, text, pairs = np.split(columns, np.cumsum(list(sizes.values()))[:-1])
    coupling = np.zeros((num_modules, num_modules))
    coupling[features.pairs] = pairs
    return UtilityModel(
        curves=_curves(np.concatenate([own, believed]), features, r_max),
        text_curves=(text.reshape(-1, num_modules) / features.text_scale[:, None])[:, :, None] * features.worths,
        text_mean=features.text_mean,
        feature_mean=features.feature_mean,
        text_range=features.text_range,
        basis=features.basis,
        coupling=coupling + coupling.T,
    )
