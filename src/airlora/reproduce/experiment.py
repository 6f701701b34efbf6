"""What a table or figure consists of: its trials, and the result that it makes of theirs."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.errors import SettingsError
from airlora.reproduce.plan import REFERENCE_SNR_DB, Plan
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.statistics import (
    PairedComparison,
    Verdict,
    holm,
    judge_difference,
    paired_comparison,
    probability_of_improvement,
    sentence_bootstrap,
    shown_interval,
)
from airlora.reproduce.trial import Trial, TrialResult

__all__ = ["Arm", "Claim", "Experiment", "Results", "experiments", "find_experiments", "judge"]

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
    """A claim that arm A is better than arm B.

    Args:
        text: Claim as a sentence.
        better: Arm that the claim prefers.
        worse: Arm that it is compared with.
        paper: Difference that the paper reports, as a share of 1.
        at_least: Smallest difference that the claim asserts.
    """

    text: str
    better: Arm
    worse: Arm
    paper: float | None = None
    at_least: float = 0.0


def judge(results: Results, claims: Sequence[Claim]) -> list[Verdict]:
    """Return a verdict on the accuracy and one on the loss of every claim, with Holm's correction over all of them.

    The loss is the primary measure: it tells methods apart with fewer seeds than the accuracy. The paper states
    accuracies.

    Args:
        results: Results of all trials.
        claims: Claims of one table.
    """
    judged: list[tuple[Claim, PairedComparison, PairedComparison]] = []
    for claim in claims:
        resolution = 1.0 / results.correct(claim.better).shape[1]
        accuracy = paired_comparison(results.scores(claim.better), results.scores(claim.worse), resolution=resolution)
        loss = paired_comparison(-results.scores(claim.better, "loss"), -results.scores(claim.worse, "loss"))
        judged.append((claim, accuracy, loss))
    corrected = holm([comparison.p_value for _, *both in judged for comparison in both])
    verdicts = []
    for place, (claim, accuracy, loss) in enumerate(judged):
        first = judge_difference(
            f"{claim.text}: accuracy",
            accuracy,
            paper=claim.paper,
            at_least=claim.at_least,
            p_value=corrected[2 * place],
        )
        by_sentence = sentence_bootstrap(results.correct(claim.better), results.correct(claim.worse))
        if by_sentence.interval is not None:
            reason = f"{first.reason} Over evaluation sentences: {shown_interval(by_sentence.interval)}."
            first = replace(first, reason=reason)
        second = judge_difference(f"{claim.text}: lower loss", loss, p_value=corrected[2 * place + 1], unit="nats")
        better, worse = (-results.scores(arm, "loss") for arm in (claim.better, claim.worse))
        improvement = probability_of_improvement(better, worse)
        if improvement.interval is not None:
            low, high = improvement.interval
            chance = f"Probability of improvement: {improvement.value:.2f} ({low:.2f} to {high:.2f})."
            second = replace(second, reason=f"{second.reason} {chance}")
        verdicts += [first, second]
    return verdicts


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
