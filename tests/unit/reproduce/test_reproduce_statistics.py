import sys

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from statsmodels.stats.weightstats import ttost_paired

from airlora.errors import DataError, MissingDependencyError, SettingsError
from airlora.reproduce.statistics import (
    DOES_NOT_HOLD,
    HOLDS,
    NOT_DECIDABLE,
    Verdict,
    holm,
    interquartile_mean,
    judge_difference,
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


def judged(differences: list[float], **options) -> Verdict:
    b = np.full(len(differences), 0.9)
    return judge_difference("A is better than B.", paired_comparison(b + differences, b), **options)


@pytest.mark.parametrize(
    ("differences", "options", "verdict"),
    [
        ([0.010, 0.011, 0.012], {}, HOLDS),
        ([0.010, 0.011, 0.012], {"at_least": 0.005}, HOLDS),
        ([0.010, 0.011, 0.012], {"p_value": 0.06}, NOT_DECIDABLE),  # corrected for other claims
        ([0.010, 0.011, 0.012], {"at_least": 0.010}, NOT_DECIDABLE),
        ([0.010, 0.011, 0.012], {"at_least": 0.020}, DOES_NOT_HOLD),
        ([-0.010, -0.011, -0.012], {}, DOES_NOT_HOLD),
        ([0.010, -0.011, 0.012], {}, NOT_DECIDABLE),
        ([0.0, 0.0, 0.0], {}, DOES_NOT_HOLD),
        ([-0.001, 0.001, 0.0, 0.001], {"at_least": 0.006}, DOES_NOT_HOLD),
        ([0.02], {}, NOT_DECIDABLE),
    ],
)
def test_the_verdict_follows_interval_and_p_value(differences: list[float], options: dict, verdict: str) -> None:
    assert judged(differences, **options).verdict == verdict


def test_equivalence_refutes_only_claims_beyond_the_margin() -> None:
    comparison = paired_comparison([0.904, 0.896, 0.9, 0.901], np.full(4, 0.9), margin=0.0045)
    assert comparison.p_equivalence < 0.05
    assert comparison.interval[1] > 0.005  # the interval alone would not refute the second claim
    assert judge_difference("A is better.", comparison).verdict == NOT_DECIDABLE
    assert judge_difference("A is better by .4 points.", comparison, at_least=0.004).verdict == NOT_DECIDABLE
    assert judge_difference("A is better by half a point.", comparison, at_least=0.005).verdict == DOES_NOT_HOLD


def test_the_reason_states_the_smallest_difference_that_the_seeds_could_have_shown() -> None:
    reason = judged([0.010, -0.011, 0.012]).reason
    smallest = paired_comparison([0.910, 0.889, 0.912], [0.9, 0.9, 0.9]).smallest_detectable
    assert f"could have shown {100 * smallest:.2f} points or more" in reason
    assert reason.startswith("3 seeds: +0.37 points, 95 % interval -2.80 to +3.53 points, p .668.")
    assert "no difference of any size" in judged([0.02]).reason


def test_the_smallest_difference_allows_for_the_correction_of_all_tests() -> None:
    scores = np.array([0.910, 0.889, 0.912]), np.full(3, 0.9)
    corrected = paired_comparison(*scores, num_tests=6)
    assert corrected.smallest_detectable > 2 * paired_comparison(*scores).smallest_detectable
    reason = judge_difference("A is better.", corrected).reason
    assert f"{100 * corrected.smallest_detectable:.2f} points or more (80 % power after the correction for 6" in reason


def test_only_accuracies_have_a_margin_of_equivalence() -> None:
    assert "Equivalent within 0.50 points (TOST p < .001)" in judged([0.0001, -0.0001, 0.0]).reason
    for unit in ("nats", "ranks", "%", ""):
        verdict = judged([0.0001, -0.0001, 0.0], unit=unit)
        assert "quivalent" not in verdict.reason
    equivalent = [0.004, -0.004, 0.0, 0.001]
    assert judged(equivalent, at_least=0.0052).verdict == DOES_NOT_HOLD
    # Half a point of accuracy is no margin for a loss, so its interval alone judges.
    assert judged(equivalent, at_least=0.0052, unit="nats").verdict == NOT_DECIDABLE


@pytest.mark.parametrize(
    ("paper", "sentence"),
    [
        (0.012, "The paper's +1.20 points lie inside the interval."),
        (0.0035, "The paper's +0.35 points lie outside the interval."),
    ],
)
def test_the_reason_says_where_the_papers_difference_lies(paper: float, sentence: str) -> None:
    assert sentence in judged([0.010, 0.011, 0.012], paper=paper).reason
    assert "The paper's" not in judged([0.010, 0.011, 0.012]).reason


def test_a_difference_that_cannot_decide_is_shown_without_a_test() -> None:
    verdict = judged([0.010, 0.011, 0.012], undecidable="A trains with fewer updates.")
    assert verdict.verdict == NOT_DECIDABLE
    assert verdict.reason == "3 seeds: +1.10 points, 95 % interval +0.85 to +1.35 points. A trains with fewer updates."


def test_a_verdict_has_plain_values_from_which_it_is_restored() -> None:
    verdict = Verdict("c", 0.01, 0.02, (0.0, 0.04), HOLDS)
    assert Verdict.from_dict(verdict.to_dict()) == verdict
    assert verdict.to_dict() == {
        "claim": "c",
        "paper": 0.01,
        "ours": 0.02,
        "interval": [0.0, 0.04],
        "verdict": "holds",
        "reason": "",
        "unit": "points",
        "source": "paper",
    }
    own = Verdict("c", None, 0.02, None, HOLDS, source="airlora")
    assert Verdict.from_dict(own.to_dict()) == own
    with pytest.raises(SettingsError, match="verdict = 'maybe': allowed is 'holds'"):
        Verdict("c", None, None, None, "maybe")
    with pytest.raises(SettingsError, match="source of a claim = 'us': allowed is paper or airlora"):
        Verdict("c", None, None, None, HOLDS, source="us")


def test_verdicts_of_files_without_a_source_are_on_claims_of_the_paper() -> None:
    older = {key: value for key, value in Verdict("c", None, 0.02, None, HOLDS).to_dict().items() if key != "source"}
    assert Verdict.from_dict(older).source == "paper"


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
