import numpy as np
import pytest
from pydantic import ValidationError

from airlora.errors import SettingsError
from airlora.reproduce.statistics import paired_comparison
from airlora.reproduce.verdicts import (
    DOES_NOT_HOLD,
    HOLDS,
    NOT_DECIDABLE,
    ClaimedDifference,
    Verdict,
    judge_difference,
    judge_family,
)

RNG = np.random.default_rng(0)
A = np.array([0.951, 0.957, 0.949, 0.955, 0.953])
B = np.array([0.948, 0.951, 0.950, 0.947, 0.949])


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


@pytest.mark.parametrize(
    "change", [{"ours": "much"}, {"interval": [0.0]}, {"interval": 1}, {"claim": None}, {"reason": []}]
)
def test_a_verdict_is_not_restored_from_values_of_other_types(change: dict[str, object]) -> None:
    values = Verdict("c", 0.01, 0.02, (0.0, 0.04), HOLDS).to_dict()
    with pytest.raises(ValidationError):
        Verdict.from_dict(values | change)


def test_verdicts_of_files_without_a_source_are_on_claims_of_the_paper() -> None:
    older = {key: value for key, value in Verdict("c", None, 0.02, None, HOLDS).to_dict().items() if key != "source"}
    assert Verdict.from_dict(older).source == "paper"


def test_claims_of_a_family_are_corrected_together() -> None:
    claims = [ClaimedDifference("first", A, B), ClaimedDifference("second", B, A, undecidable="It is bounded.")]
    first, second = judge_family(claims, unit="points")
    alone = judge_difference("first", paired_comparison(A, B, num_tests=2), p_value=2 * paired_comparison(A, B).p_value)
    assert first == alone
    assert "after the correction for 2 tests" in first.reason
    assert (second.verdict, second.ours) == (NOT_DECIDABLE, -first.ours)
    assert "It is bounded." in second.reason


def test_the_only_claim_of_a_family_is_compared_with_a_number_and_not_corrected() -> None:
    (verdict,) = judge_family([ClaimedDifference("above", A, 0.95, paper=0.01)], unit="")
    assert verdict == judge_difference("above", paired_comparison(A, np.full(5, 0.95)), paper=0.01, unit="")
    assert "Holm" not in verdict.reason
