"""What a table or figure consists of: its trials, and the result that it makes of theirs."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from airlora.errors import SettingsError
from airlora.reproduce.kinds import CURVE_POINTS
from airlora.reproduce.plan import REFERENCE_SNR_DB, Plan
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.statistics import PairedComparison, holm, paired_comparison, sentence_bootstrap
from airlora.reproduce.trial import Trial, TrialResult
from airlora.reproduce.verdicts import Source, Verdict, judge_difference, shown_interval
from airlora.settings.loading import value_at

__all__ = [
    "SMOOTHED",
    "SMOOTHING",
    "Arm",
    "Claim",
    "Experiment",
    "Measure",
    "Results",
    "bounds_text",
    "experiments",
    "find_experiments",
    "judge",
    "running_mean",
]

Measure = Literal["accuracy", "loss", "objective"]
"""Measured value on which a claim is judged. The objective is U + λη of Eq. 9."""

_MEASURES: Mapping[Measure, tuple[str, float, str]] = {
    "accuracy": ("accuracy", 1.0, "points"),
    "loss": ("lower loss", -1.0, "nats"),
    "objective": ("lower U + λη", -1.0, ""),
}
"""Text of the claim, sign that makes larger scores better, and unit, by measure."""

SMOOTHING = 5
"""Points of a reward curve of which a running mean is taken."""

SMOOTHED = (
    f"The reward is R = -U - λη, as a running mean over {SMOOTHING} of {CURVE_POINTS} equal parts of the steps. "
    "With one seed, all policies see the same links, so that their rewards rise and fall together."
)
"""Note of the figures that show rewards."""

_NOT_IN_ROWS = ("ranks", "correct", "snr_db")


@dataclass(frozen=True)
class Arm:
    """A method with the settings that a table varies.

    Args:
        method: Key of `METHODS`.
        changes: Settings by dotted key.
        snr_db: SNR of the link, dB.
    """

    method: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    snr_db: float = REFERENCE_SNR_DB


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper.

    Args:
        name: Name on the command line and stem of the files.
        title: Title, with the number of the table or figure in the paper.
        trials: Function that returns the trials that a plan needs. Experiments share equal trials.
        result: Function that makes rows, verdicts, table and figure of the results of the trials.
    """

    name: str
    title: str
    trials: Callable[[Plan], Sequence[Trial]]
    result: Callable[[Results], ExperimentResult]


@dataclass(frozen=True)
class Results:
    """Results of all trials of a plan.

    Args:
        plan: Plan of the trials.
        by_key: Results by the key of the trial.
    """

    plan: Plan
    by_key: Mapping[str, TrialResult]

    def of(self, arm: Arm, seed: int) -> TrialResult:
        """Return the result of the trial that measured an arm."""
        found = [self.by_key[trial.key] for trial in self._trials(arm, seed)]
        # Several trials: the best by the objective on the calibration samples of this link.
        return min(found, key=lambda result: self._calibration(result, arm.snr_db)) if len(found) > 1 else found[0]

    def link(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Return the measurement of an arm on its link."""
        links: list[dict[str, Any]] = self.of(arm, seed)["links"]
        return next(link for link in links if link["snr_db"] == arm.snr_db)

    def row(self, arm: Arm, setting: str, seed: int) -> dict[str, Any]:
        """Return the raw row of an arm: method, setting, seed and the measured values."""
        measured = {key: value for key, value in self.link(arm, seed).items() if key not in _NOT_IN_ROWS}
        return {"method": arm.method, "setting": setting, "seed": seed, **measured}

    def rows(self, arms: Mapping[str, Sequence[Arm]]) -> list[dict[str, Any]]:
        """Return the raw rows of all arms and seeds.

        Args:
            arms: Arms by setting.
        """
        return [
            self.row(arm, setting, seed) for setting, group in arms.items() for arm in group for seed in self.plan.seeds
        ]

    def scores(self, arm: Arm, key: str = "accuracy") -> NDArray[np.float64]:
        """Return a measured value of an arm over seeds, float [num_seeds]."""
        return np.asarray([self.link(arm, seed)[key] for seed in self.plan.seeds], dtype=np.float64)

    def correct(self, arm: Arm) -> NDArray[np.float64]:
        """Return the correctness of every evaluation sentence, 0 or 1, float [num_seeds, num_sentences]."""
        return np.asarray([[float(digit) for digit in self.link(arm, seed)["correct"]] for seed in self.plan.seeds])

    def rewards(self, arm: Arm) -> tuple[list[float], NDArray[np.float64]]:
        """Return steps, [num_points], and mean rewards since the step before, float [num_seeds, num_points]."""
        curves = [self.of(arm, seed)["rewards"] for seed in self.plan.seeds]
        return [point[0] for point in curves[0]], np.asarray([[point[1] for point in curve] for curve in curves])

    def _trials(self, arm: Arm, seed: int) -> list[Trial]:
        return self.plan.trials(arm.method, seed, arm.changes, snrs_db=(arm.snr_db,))

    @staticmethod
    def _calibration(result: TrialResult, snr_db: float) -> float:
        place = [link["snr_db"] for link in result["links"]].index(snr_db)
        return float(result["calibration"][place])


@dataclass(frozen=True)
class Claim:
    """A claim that arm A is better than arm B, or than the mean of several arms.

    Args:
        text: Claim as a sentence.
        better: Arm that the claim prefers.
        worse: Arm or arms that it is compared with.
        paper: Difference in accuracy that the paper reports, as a share of 1.
        at_least: Smallest difference in accuracy that the claim asserts.
        source: Origin of the claim.
        measures: Measured values on which the claim is judged. Accuracy and loss judge arms whose communication costs
            the claim leaves open; the objective judges a claim on the balance of both.
    """

    text: str
    better: Arm
    worse: Arm | Sequence[Arm]
    paper: float | None = None
    at_least: float = 0.0
    source: Source = "paper"
    measures: tuple[Measure, ...] = ("accuracy", "loss")

    @property
    def others(self) -> tuple[Arm, ...]:
        """Arms that are compared with the better one."""
        return (self.worse,) if isinstance(self.worse, Arm) else tuple(self.worse)


def bounds_text(plan: Plan, *arms: Arm) -> str | None:
    """Return a sentence that names the settings of the arms that the scale lowers. None if it lowers none.

    An arm with such a setting trains less than the method of the paper, so it decides no claim on that method.
    """
    bounded = [arm for arm in arms if plan.caps(arm.method)]
    settings = plan.settings().model_dump() if bounded else {}
    lowered: dict[str, list[str]] = {}
    for arm in bounded:
        for key, bound in plan.caps(arm.method).items():
            # The settings that a table varies replace the bounds.
            if key not in arm.changes and bound < (own := value_at(settings, key)):
                lowered.setdefault(arm.method, []).append(f"{key} {bound} instead of {own}")
    sentences = [
        f"{method} trains with fewer updates or steps at this scale: {', '.join(dict.fromkeys(texts))}."
        for method, texts in lowered.items()
    ]
    return " ".join(sentences) or None


@dataclass(frozen=True)
class _Test:
    """One test of a claim.

    Args:
        claim: Claim.
        measure: Measured value.
        bounds: Sentence of `bounds_text`.
        comparison: Comparison of the arms, where larger scores are better.
    """

    claim: Claim
    measure: Measure
    bounds: str | None
    comparison: PairedComparison

    @property
    def family(self) -> tuple[Source, Measure] | None:
        """Family of Holm's correction. None for a test that decides nothing."""
        return None if self.bounds else (self.claim.source, self.measure)


def judge(results: Results, claims: Sequence[Claim]) -> list[Verdict]:
    """Return a verdict on every claim and measure.

    Holm's correction covers all claims of one source on one measure. A claim on a method that the scale bounds is not
    decidable and belongs to no family. The loss tells methods apart with fewer seeds than the accuracy; the paper
    states accuracies.

    Args:
        results: Results of all trials.
        claims: Claims of one table.
    """
    bounds = [bounds_text(results.plan, claim.better, *claim.others) for claim in claims]
    sizes = Counter(
        (claim.source, measure)
        for claim, text in zip(claims, bounds, strict=True)
        if text is None
        for measure in claim.measures
    )
    tests = [
        _Test(claim, measure, text, _compare(results, claim, measure, max(1, sizes[claim.source, measure])))
        for claim, text in zip(claims, bounds, strict=True)
        for measure in claim.measures
    ]
    corrected: dict[int, float | None] = {}
    for family in sizes:
        members = [place for place, test in enumerate(tests) if test.family == family]
        p_values = holm([tests[place].comparison.p_value for place in members])
        corrected |= dict(zip(members, p_values, strict=True))
    return [_verdict(results, test, corrected.get(place)) for place, test in enumerate(tests)]


def _compare(results: Results, claim: Claim, measure: Measure, num_tests: int) -> PairedComparison:
    _, sign, _ = _MEASURES[measure]
    resolution = 1.0 / results.correct(claim.better).shape[1] if measure == "accuracy" else 0.0
    others = np.mean([results.scores(arm, measure) for arm in claim.others], axis=0)
    better = results.scores(claim.better, measure)
    return paired_comparison(sign * better, sign * others, resolution=resolution, num_tests=num_tests)


def _verdict(results: Results, test: _Test, p_value: float | None) -> Verdict:
    claim, is_accuracy = test.claim, test.measure == "accuracy"
    text, _, unit = _MEASURES[test.measure]
    verdict = judge_difference(
        f"{claim.text}: {text}",
        test.comparison,
        paper=claim.paper if is_accuracy else None,
        at_least=claim.at_least if is_accuracy else 0.0,
        p_value=p_value,
        unit=unit,
        undecidable=test.bounds,
    )
    sentences = [verdict.reason]
    if is_accuracy:
        # Every other arm meets the same answers, so the mean over pairs is that over the other arms.
        answers = np.tile(results.correct(claim.better), (len(claim.others), 1))
        by_sentence = sentence_bootstrap(answers, np.concatenate([results.correct(arm) for arm in claim.others]))
        if by_sentence.interval is not None:
            sentences.append(f"Over evaluation sentences: {shown_interval(by_sentence.interval)}.")
    elif (improvement := test.comparison.improvement).interval is not None:
        low, high = improvement.interval
        sentences.append(f"Probability of improvement: {improvement.value:.2f} ({low:.2f} to {high:.2f}).")
    costs = [float(np.mean([results.scores(arm, "cost") for arm in arms])) for arms in ([claim.better], claim.others)]
    sentences.append(f"η {_cost_text(costs[0])} against {_cost_text(costs[1])}.")
    return replace(verdict, reason=" ".join(sentences), source=claim.source)


def _cost_text(cost: float) -> str:
    """Return a communication cost with two digits, more for a small one.

    Examples:
        >>> _cost_text(0.9412), _cost_text(1.1), _cost_text(0.00213), _cost_text(0.0)
        ('.94', '1.10', '.0021', '0')
    """
    return (f"{cost:.2f}" if cost >= 0.1 else f"{cost:.2g}").removeprefix("0") or "0"


def running_mean(
    steps: Sequence[float], curves: NDArray[np.float64], window: int = SMOOTHING
) -> tuple[Sequence[float], NDArray[np.float64]]:
    """Return the running mean of curves, and the last step of every window.

    Args:
        steps: Steps of the points, [num_points].
        curves: Values, float [num_curves, num_points].
        window: Number of points of a mean. Shorter curves have one mean of all points.
    """
    window = min(window, curves.shape[-1])
    means = np.lib.stride_tricks.sliding_window_view(curves, window, axis=-1).mean(axis=-1)
    return steps[window - 1 :], means


@functools.cache
def experiments() -> dict[str, Experiment]:
    """Return all experiments by name: every module of this package with a constant `EXPERIMENT` is one."""
    package = importlib.import_module("airlora.reproduce")
    modules = (
        importlib.import_module(f"airlora.reproduce.{module.name}")
        for module in pkgutil.iter_modules(package.__path__)
        if module.name.startswith(("table", "fig")) and module.name not in ("tables", "figures")
    )
    found = [module.EXPERIMENT for module in modules]
    return {own.name: own for own in sorted(found, key=lambda own: (not own.name.startswith("table"), own.name))}


def find_experiments(name: str) -> list[Experiment]:
    """Return the experiment of a name, or all of them for `all`.

    Raises:
        SettingsError: There is no such table or figure.
    """
    known = experiments()
    if name == "all":
        return list(known.values())
    if name not in known:
        raise SettingsError.of("table or figure", name, f"one of {', '.join(known)}, all")
    return [known[name]]
