import sys

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from statsmodels.stats.weightstats import ttost_paired

from airlora.errors import DataError, MissingDependencyError, SettingsError
from airlora.reproduce.statistics import (
    holm,
    interquartile_mean,
    mean_estimate,
    paired_comparison,
    probability_of_improvement,
    sentence_bootstrap,
)

RNG = np.random.default_rng(0)
A = np.array([0.951, 0.957, 0.949, 0.955, 0.953])
B = np.array([0.948, 0.951, 0.950, 0.947, 0.949])


def test_the_interval_of_a_mean_is_that_of_students_t() -> None:
    expected = stats.ttest_1samp(A, 0.0).confidence_interval(0.95)
    assert mean_estimate(A).interval == pytest.approx((expected.low, expected.high))
    assert mean_estimate([0.9]).interval is None


def test_a_paired_comparison_agrees_with_the_reference_libraries() -> None:
    result = paired_comparison(A, B, margin=0.006)
    test = stats.ttest_rel(A, B)
    assert result.p_value == pytest.approx(test.pvalue)
    assert result.interval == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert result.p_equivalence == pytest.approx(ttost_paired(A, B, -0.006, 0.006)[0])


def test_the_smallest_detectable_difference_is_found_in_four_of_five_experiments() -> None:
    result = paired_comparison(A, B)
    spread = (A - B).std(ddof=1)
    samples = np.random.default_rng(1).normal(result.smallest_detectable, spread, (20_000, 5))
    assert np.mean(stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(("num_seeds", "num_tests"), [(2, 14), (3, 6), (5, 1), (5, 14)])
def test_the_smallest_detectable_difference_is_found_at_the_corrected_level(num_seeds: int, num_tests: int) -> None:
    scores = RNG.normal(0.9, 0.01, num_seeds)
    effect = paired_comparison(scores, np.zeros(num_seeds), num_tests=num_tests).smallest_detectable / scores.std(
        ddof=1
    )
    threshold = stats.t.ppf(1.0 - 0.05 / num_tests / 2, num_seeds - 1)

    def density(spread: float) -> float:
        """Return the density of a standard deviation, times the power of a test that observes it."""
        chance = 2 * spread * (num_seeds - 1) * stats.chi2.pdf(spread**2 * (num_seeds - 1), num_seeds - 1)
        return chance * stats.norm.sf(threshold * spread - effect * np.sqrt(num_seeds))

    assert quad(density, 0.0, 10.0, limit=200)[0] == pytest.approx(0.8, abs=1e-3)


def test_one_seed_has_neither_interval_nor_p_values() -> None:
    result = paired_comparison([0.9], [0.8])
    assert result.difference == pytest.approx(0.1)
    assert (result.interval, result.p_value, result.p_equivalence, result.smallest_detectable) == (None,) * 4


def test_equal_differences_of_coarse_scores_are_no_proof() -> None:
    a, b = np.array([0.91, 0.92]), np.array([0.90, 0.91])
    assert paired_comparison(a, b, resolution=0.01).p_value > 0.05
    assert paired_comparison(a, b).p_value == 0.0


def test_identical_scores_have_no_difference() -> None:
    result = paired_comparison(A, A)
    assert (result.difference, result.p_value, result.p_equivalence) == (0.0, 1.0, 0.0)
    assert result.improvement.value == 0.5


def test_the_interquartile_mean_ignores_the_outer_quarters() -> None:
    scores = np.array([[0.0, 5.0], [1.0, 2.0], [1.0, 2.0], [-99.0, 99.0]])
    assert interquartile_mean(scores).value == 1.5
    assert interquartile_mean(scores[:, 0] * 0 + 3).interval == (3.0, 3.0)


def test_the_interval_of_the_interquartile_mean_covers_the_truth_in_most_experiments() -> None:
    draws = np.random.default_rng(2).normal(1.0, 1.0, (40, 8, 3))
    intervals = [interquartile_mean(scores).interval for scores in draws]
    assert 32 <= sum(low <= 1.0 <= high for low, high in intervals) <= 40


def test_settings_are_resampled_apart() -> None:
    # The spread between settings is no uncertainty over seeds.
    scores = np.tile([0.0, 10.0, 20.0], (4, 1))
    assert interquartile_mean(scores).interval == (10.0, 10.0)


def test_the_probability_of_improvement_is_the_scaled_mann_whitney_statistic() -> None:
    a, b = RNG.integers(0, 5, (6, 2)).astype(float), RNG.integers(0, 5, (4, 2)).astype(float)
    expected = np.mean([stats.mannwhitneyu(a[:, k], b[:, k]).statistic / 24 for k in range(2)])
    result = probability_of_improvement(a, b)
    assert result.value == pytest.approx(expected)
    assert result.interval[0] <= result.value <= result.interval[1]
    assert probability_of_improvement(b, a).value == pytest.approx(1.0 - expected)


def test_holm_multiplies_the_smallest_p_value_by_the_number_of_tests() -> None:
    assert holm([0.04, 0.01, None, 0.03]) == pytest.approx([0.06, 0.03, None, 0.06])
    assert holm([None]) == [None]


def test_the_bootstrap_over_sentences_agrees_with_the_normal_interval() -> None:
    rng = np.random.default_rng(3)
    b = (rng.random((3, 872)) < 0.9).astype(int)
    a = np.where(rng.random((3, 872)) < 0.05, 1, b)
    by_sentence = (a - b).mean(axis=0)
    result = sentence_bootstrap(a, b)
    width = 1.96 * by_sentence.std(ddof=1) / np.sqrt(872)
    assert result.value == pytest.approx(by_sentence.mean())
    assert result.half_width == pytest.approx(width, rel=0.08)
    assert sentence_bootstrap(a, b) == result


def test_answers_that_are_equal_for_every_sentence_have_no_interval_width() -> None:
    a = RNG.integers(0, 2, (2, 50))
    assert sentence_bootstrap(a, a).interval == (0.0, 0.0)


def test_wrong_input_is_named() -> None:
    with pytest.raises(DataError, match="seeds of b = 2: allowed is 3"):
        paired_comparison([0.1, 0.2, 0.3], [0.1, 0.2])
    with pytest.raises(DataError, match="a = nan: allowed is finite numbers"):
        paired_comparison([0.1, float("nan")], [0.1, 0.2])
    with pytest.raises(DataError, match=r"shape of values = \(0,\)"):
        mean_estimate([])
    with pytest.raises(DataError, match=r"a = 0.5: allowed is 0 for a wrong"):
        sentence_bootstrap([0.5, 1.0], [1.0, 1.0])
    with pytest.raises(DataError, match="settings of b = 1: allowed is 2"):
        probability_of_improvement([[0.1, 0.2]], [[0.1]])
    with pytest.raises(DataError, match="allowed is numbers of equal count per row"):
        interquartile_mean([[0.1, 0.2], [0.3]])
    with pytest.raises(SettingsError, match="margin = 0: allowed is a number above 0"):
        paired_comparison([0.1], [0.1], margin=0)
    with pytest.raises(SettingsError, match="num_tests = 0: allowed is 1 or more"):
        paired_comparison([0.1], [0.1], num_tests=0)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels.stats.multitest", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'airlora\[reproduce\]'"):
        holm([0.1])
