"""Statistics over seeds: intervals and paired comparisons.

Scores are NumPy arrays over seeds, in the same order for both methods of a comparison. All intervals cover 95 %.

| quantity | method | library |
|---|---|---|
| interval of a mean, p value, equivalence | Student's t over seeds; two one-sided tests (TOST) | `scipy.stats` |
| interquartile mean, probability of improvement | stratified bootstrap over seeds (Agarwal et al.) | `scipy.stats` |
| correction of several p values | Holm's step-down method | `statsmodels` |
| smallest detectable difference | power of the paired t-test, noncentral t | `scipy.special` |

Reference:
    Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
    NeurIPS 2021, arXiv:2108.13264.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from airlora.errors import DataError, MissingDependencyError, SettingsError
from airlora.reports.statistics import half_width

__all__ = [
    "ALPHA",
    "MARGIN",
    "POWER",
    "Estimate",
    "PairedComparison",
    "holm",
    "interquartile_mean",
    "mean_estimate",
    "paired_comparison",
    "probability_of_improvement",
    "sentence_bootstrap",
]

ALPHA = 0.05
"""Significance level of all tests."""

POWER = 0.8
"""Power at which the smallest detectable difference is stated."""

MARGIN = 0.005
"""Default margin of equivalence: half a point of accuracy."""

_RESAMPLES = 5000


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated quantity.

    Args:
        value: Estimate.
        interval: 95 % confidence interval (low, high). None for fewer than two seeds.
    """

    value: float
    interval: tuple[float, float] | None

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval; None without an interval."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2


def mean_estimate(values: ArrayLike) -> Estimate:
    """Return the mean over seeds and its 95 % interval by Student's t.

    Args:
        values: Scores, float [num_seeds].

    Raises:
        DataError: There is no score, or one is not finite.
    """
    scores = _scores("values", values, 1)
    mean, width = float(scores.mean()), half_width(scores.tolist())
    return Estimate(mean, None if width is None else (mean - width, mean + width))


def interquartile_mean(scores: ArrayLike, *, seed: int = 0) -> Estimate:
    """Return the mean of the middle half of all scores, with a bootstrap interval.

    The definition and the interval are those of `rliable` (Agarwal et al., 2021): the 25 % trimmed mean over seeds and
    settings, and percentiles of a bootstrap that resamples seeds within each setting.

    Args:
        scores: Scores, float [num_seeds, num_settings] or [num_seeds].
        seed: Seed of the bootstrap.

    Raises:
        DataError: There is no score, or one is not finite.

    Examples:
        >>> interquartile_mean([[0.0], [1.0], [2.0], [9.0]]).value
        1.5
    """
    columns = _by_setting("scores", scores)

    def statistic(*samples: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.asarray(stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis))

    return _bootstrap(columns, statistic, seed)


def probability_of_improvement(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> Estimate:
    """Return the probability that a seed of A scores above a seed of B, averaged over settings.

    P(A > B) + P(A = B) / 2 = U / (n m), where U is the Mann-Whitney statistic of n seeds of A and m seeds of B. The
    definition and the interval are those of `rliable` (Agarwal et al., 2021): seeds of A and B are independent, and
    a bootstrap resamples them within each setting.

    Args:
        a: Scores of A, float [num_seeds_a, num_settings] or [num_seeds_a].
        b: Scores of B, float [num_seeds_b, num_settings] or [num_seeds_b].
        seed: Seed of the bootstrap.

    Raises:
        DataError: A score is missing or not finite, or the numbers of settings differ.

    Examples:
        >>> probability_of_improvement([3.0, 4.0], [1.0, 2.0]).value
        1.0
    """
    ours, theirs = _by_setting("a", a), _by_setting("b", b)
    if len(ours) != len(theirs):
        raise DataError.of("settings of b", len(theirs), f"{len(ours)}, the number of settings of a")

    def statistic(*samples: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        pairs = zip(samples[: len(ours)], samples[len(ours) :], strict=True)
        shares = []
        for x, y in pairs:
            difference = np.moveaxis(x, axis, -1)[..., :, None] - np.moveaxis(y, axis, -1)[..., None, :]
            shares.append((0.5 + 0.5 * np.sign(difference)).mean(axis=(-2, -1)))
        return np.asarray(np.mean(shares, axis=0))

    return _bootstrap([*ours, *theirs], statistic, seed)


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Comparison of two methods on the same seeds. Differences are A minus B.

    Args:
        num_seeds: Number of seeds.
        difference: Mean difference.
        interval: 95 % interval of the mean difference by Student's t. None for one seed.
        p_value: Two-sided p value of the paired t-test. None for one seed.
        p_equivalence: p value of two one-sided tests (TOST) of a mean difference beyond the margin. None for one seed.
        smallest_detectable: Mean difference that a two-sided test of these seeds at the level `ALPHA / num_tests` shows
            with a power of 80 %, given the observed spread. None for one seed.
        improvement: Probability that a seed of A scores above a seed of B.
        margin: Margin of equivalence.
        num_tests: Number of tests in the family of Holm's correction.
    """

    num_seeds: int
    difference: float
    interval: tuple[float, float] | None
    p_value: float | None
    p_equivalence: float | None
    smallest_detectable: float | None
    improvement: Estimate
    margin: float
    num_tests: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def paired_comparison(
    a: ArrayLike, b: ArrayLike, *, margin: float = MARGIN, resolution: float = 0.0, num_tests: int = 1
) -> PairedComparison:
    """Return the comparison of two methods over seeds.

    The mean difference d of n seeds with sample standard deviation s has t = d / (s / sqrt(n)) with n - 1 degrees of
    freedom. A few seeds can have equal differences by chance when the scores are multiples of 1 / num_sentences. The
    standard deviation is therefore at least that of the rounding error of a difference, resolution / sqrt(6).

    Holm's method compares the smallest of m p values with `ALPHA / m`. The smallest detectable difference is stated for
    that level, at which a test finds its difference whatever the other tests find.

    Args:
        a: Scores of method A, float [num_seeds].
        b: Scores of method B on the same seeds, float [num_seeds].
        margin: Margin of equivalence, in the unit of the scores.
        resolution: Smallest step of a score, such as 1 / num_sentences for an accuracy. With 0, differences that are
            equal on all seeds are deterministic, as numbers of parameters are.
        num_tests: Number of tests that are corrected together by `holm`.

    Raises:
        DataError: A score is missing or not finite, or the numbers of seeds differ.
        SettingsError: The margin is not above 0, the resolution is below 0, or the number of tests is below 1.
    """
    if not (margin > 0.0 and math.isfinite(margin)):
        raise SettingsError.of("margin", margin, "a number above 0")
    if not (resolution >= 0.0 and math.isfinite(resolution)):
        raise SettingsError.of("resolution", resolution, "a number from 0")
    if num_tests < 1:
        raise SettingsError.of("num_tests", num_tests, "1 or more")
    ours, theirs = _scores("a", a, 1), _scores("b", b, 1)
    if ours.shape != theirs.shape:
        raise DataError.of("seeds of b", len(theirs), f"{len(ours)}, the number of seeds of a")
    differences = ours - theirs
    count, mean = len(differences), float(differences.mean())
    interval = p_value = p_equivalence = smallest = None
    if count >= 2:
        # Differences that are equal but for floating-point rounding have no spread.
        rounding = 8 * np.finfo(np.float64).eps * float(np.abs([ours, theirs]).max())
        spread = float(differences.std(ddof=1))
        spread = max(0.0 if spread <= rounding else spread, resolution / math.sqrt(6.0))
        error = spread / math.sqrt(count)
        width = float(stats.t.ppf(1.0 - ALPHA / 2, count - 1)) * error
        interval = (mean - width, mean + width)
        p_value = min(1.0, 2.0 * _upper_tail(abs(mean) if abs(mean) > rounding else 0.0, error, count - 1))
        p_equivalence = max(_upper_tail(mean + margin, error, count - 1), _upper_tail(margin - mean, error, count - 1))
        smallest = spread * _detectable_effect(count, ALPHA / num_tests)
    improvement = probability_of_improvement(ours, theirs)
    return PairedComparison(count, mean, interval, p_value, p_equivalence, smallest, improvement, margin, num_tests)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p values corrected for their number by Holm's method, in the same order.

    Args:
        p_values: p values of one family of tests. None stands for a test that could not be made and stays None.

    Raises:
        MissingDependencyError: `statsmodels` is not installed.

    Examples:
        >>> holm([0.01, None, 0.04])
        [0.02, None, 0.04]
    """
    made = [value for value in p_values if value is not None]
    if not made:
        return list(p_values)
    corrected = iter(_statsmodels("stats.multitest").multipletests(made, alpha=ALPHA, method="holm")[1].tolist())
    return [None if value is None else next(corrected) for value in p_values]


def sentence_bootstrap(a: ArrayLike, b: ArrayLike, *, num_resamples: int = 10_000, seed: int = 0) -> Estimate:
    """Return the difference in accuracy, A minus B, with a paired bootstrap interval over evaluation sentences.

    Every resample draws sentences with replacement, the same for both methods and all seeds. The interval states how
    much the choice of the evaluation sentences matters. It does not contain the spread over seeds.

    Args:
        a: Correctness of method A, 0 or 1, [num_seeds, num_sentences] or [num_sentences].
        b: Correctness of method B on the same seeds and sentences, like `a`.
        num_resamples: Number of resamples.
        seed: Seed of the resamples.

    Raises:
        DataError: A value is neither 0 nor 1, or the shapes differ.
    """
    ours, theirs = (np.atleast_2d(_scores(name, array, 2)) for name, array in (("a", a), ("b", b)))
    if ours.shape != theirs.shape:
        raise DataError.of("shape of b", theirs.shape, f"{ours.shape}, the shape of a")
    for name, array in (("a", ours), ("b", theirs)):
        wrong = array[(array != 0.0) & (array != 1.0)]
        if wrong.size:
            raise DataError.of(name, float(wrong[0]), "0 for a wrong and 1 for a right answer")
    by_sentence = (ours - theirs).mean(axis=0)
    if len(by_sentence) < 2:
        return Estimate(float(by_sentence.mean()), None)
    result = stats.bootstrap(
        (by_sentence,), np.mean, n_resamples=num_resamples, batch=500, method="percentile", rng=seed
    )
    low, high = result.confidence_interval
    return Estimate(float(by_sentence.mean()), (float(low), float(high)))


def _upper_tail(excess: float, error: float, freedom: int) -> float:
    """Return P(T > excess / error) by Student's t, also in the limit of no error."""
    if error == 0.0:
        return 0.5 if excess == 0.0 else float(excess < 0.0)
    return float(stats.t.sf(excess / error, freedom))


def _detectable_effect(num_seeds: int, level: float) -> float:
    """Return the effect size (mean over standard deviation) that a paired t-test shows with the power `POWER`.

    The test rejects in favour of the wrong side with a probability below `level / 2`, which is left out.
    """
    freedom = num_seeds - 1
    threshold = stats.t.ppf(1.0 - level / 2, freedom)
    return float(special.nctdtrinc(freedom, 1.0 - POWER, threshold)) / math.sqrt(num_seeds)


def _bootstrap(samples: Sequence[NDArray[np.float64]], statistic: Any, seed: int) -> Estimate:
    """Return a statistic of the samples with the percentile interval of a bootstrap within each sample."""
    value = float(statistic(*samples))
    if min(len(sample) for sample in samples) < 2:
        return Estimate(value, None)
    result = stats.bootstrap(
        list(samples), statistic, n_resamples=_RESAMPLES, vectorized=True, axis=-1, method="percentile", rng=seed
    )
    low, high = result.confidence_interval
    return Estimate(value, (float(low), float(high)))


def _scores(name: str, values: ArrayLike, max_ndim: int) -> NDArray[np.float64]:
    """Return finite scores as an array."""
    try:
        scores = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError.of(name, values, "numbers of equal count per row") from error
    if not 1 <= scores.ndim <= max_ndim or scores.size == 0:
        raise DataError.of(f"shape of {name}", scores.shape, f"1 to {max_ndim} dimensions, none of length 0")
    if not np.isfinite(scores).all():
        raise DataError.of(name, scores[~np.isfinite(scores)][0].item(), "finite numbers")
    return scores


def _by_setting(name: str, values: ArrayLike) -> list[NDArray[np.float64]]:
    """Return the scores of every setting, float [num_seeds] each."""
    scores = _scores(name, values, 2)
    return list(scores.reshape(len(scores), -1).T)


def _statsmodels(module: str) -> ModuleType:
    try:
        return importlib.import_module(f"statsmodels.{module}")
    except ImportError as error:
        raise MissingDependencyError(
            "the statistics of `airlora reproduce` need the package statsmodels: pip install 'airlora[reproduce]'"
        ) from error
