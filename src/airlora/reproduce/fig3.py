"""Figure 3: reward during training, for the policies of Table III."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.reproduce.experiment import Arm, Experiment, Results
from airlora.reproduce.figures import PAGE_INCHES, Series, line_figure
from airlora.reproduce.methods import METHODS, PAPER_METHODS
from airlora.reproduce.plan import Plan
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.statistics import Verdict, holm, judge_difference, paired_comparison
from airlora.reproduce.trial import Trial

__all__ = ["EXPERIMENT", "steps_to_reach"]

TITLE = "Figure 3: reward while the policy learns"

POLICIES = tuple(name for name in PAPER_METHODS if METHODS[name].policy)

SMOOTHING = 5
"""Points of the running mean of which a level is reached."""

_CLAIMS = (
    ("PPO then DDIM takes at least 20 % fewer steps than PPO: share of steps saved", "PPO+DDIM/MLP", "PPO", 0.2, 0.2),
    ("PPO then DDIM takes fewer steps than PPO then DDPM: share of steps saved", "PPO+DDIM/MLP", "PPO+DDPM", None, 0.0),
)


def _trials(plan: Plan) -> Sequence[Trial]:
    return [plan.trial(method, seed) for method in POLICIES for seed in plan.seeds]


def _result(results: Results) -> ExperimentResult:
    series: list[Series] = []
    rows: list[dict[str, Any]] = []
    for name in POLICIES:
        method, (steps, rewards) = METHODS[name], results.rewards(Arm(name))
        series.append(Series(name, steps, rewards, method.colour, method.marker, method.line))
        rows += [
            {"method": name, "setting": "training", "seed": seed, "step": step, "reward": float(reward)}
            for seed, curve in zip(results.plan.seeds, rewards, strict=True)
            for step, reward in zip(steps, curve, strict=True)
        ]
    figure = line_figure({"": series}, xlabel="step", ylabel="reward", width=PAGE_INCHES, height=2.8)
    notes = (
        "Each point is the mean reward R = -U - λη since the point before.",
        "A policy has converged at the first step at which the running mean reaches that of the last quarter of the "
        "slower policy's curve. A policy that never reaches it counts with all its steps.",
        *results.plan.notes,
    )
    return ExperimentResult("fig3", TITLE, rows, _verdicts(results), figure=figure, notes=notes)


def _verdicts(results: Results) -> list[Verdict]:
    comparisons = []
    for _, fast, slow, _, _ in _CLAIMS:
        steps, ours = results.rewards(Arm(fast))
        theirs = results.rewards(Arm(slow))[1]
        saved = []
        for own, other in zip(ours, theirs, strict=True):
            level = float(other[-max(1, len(other) // 4) :].mean())
            saved.append(1.0 - steps_to_reach(steps, own, level) / steps_to_reach(steps, other, level))
        comparisons.append(paired_comparison(saved, np.zeros(len(saved))))
    corrected = holm([comparison.p_value for comparison in comparisons])
    return [
        judge_difference(text, comparison, paper=paper, at_least=at_least, p_value=p_value)
        for (text, _, _, paper, at_least), comparison, p_value in zip(_CLAIMS, comparisons, corrected, strict=True)
    ]


def steps_to_reach(steps: Sequence[float], rewards: NDArray[np.float64], level: float) -> float:
    """Return the first step at which the running mean of a reward curve reaches a level, or the last step.

    Args:
        steps: Steps, [num_points].
        rewards: Rewards, float [num_points].
        level: Level to reach.

    Examples:
        >>> steps_to_reach([1, 2, 3, 4, 5, 6, 7], np.asarray([0, 0, 0, 0, 0, 5.0, 5.0]), 1.0)
        6.0
    """
    window = min(SMOOTHING, len(rewards))
    means = np.convolve(rewards, np.ones(window) / window, mode="valid")
    reached = np.flatnonzero(means >= level)
    return float(steps[reached[0] + window - 1] if len(reached) else steps[-1])


EXPERIMENT = Experiment("fig3", TITLE, _trials, _result)
