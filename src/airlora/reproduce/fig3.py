"""Figure 3: reward during training, for the policies of Table III."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.reproduce.experiment import SMOOTHED, Arm, Experiment, Results, bounds_text, running_mean
from airlora.reproduce.figures import Series, paired_line_figure
from airlora.reproduce.methods import AIRLLM, METHODS, PAPER_METHODS
from airlora.reproduce.plan import Plan
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.trial import Trial
from airlora.reproduce.verdicts import ClaimedDifference, Verdict, judge_family

__all__ = ["EXPERIMENT", "SavedSteps", "saved_steps", "steps_to_reach"]

TITLE = "Figure 3: reward while the policy learns"

POLICIES = tuple(name for name in PAPER_METHODS if METHODS[name].policy)

_CLAIMS = (
    ("PPO then DDIM takes at least 20 % fewer steps than PPO: share of steps saved", AIRLLM, "PPO", 0.2, 0.2),
    ("PPO then DDIM takes fewer steps than PPO then DDPM: share of steps saved", AIRLLM, "PPO+DDPM", None, 0.0),
)


def _trials(plan: Plan) -> Sequence[Trial]:
    return [plan.trial(method, seed) for method in POLICIES for seed in plan.seeds]


def _result(results: Results) -> ExperimentResult:
    series: list[Series] = []
    rows: list[dict[str, Any]] = []
    for name in POLICIES:
        method, (steps, rewards) = METHODS[name], results.rewards(Arm(name))
        series.append(Series(name, *running_mean(steps, rewards), method.colour, method.marker, method.line))
        rows += [
            {"method": name, "setting": "training", "seed": seed, "step": step, "reward": float(reward)}
            for seed, curve in zip(results.plan.seeds, rewards, strict=True)
            for step, reward in zip(steps, curve, strict=True)
        ]
    figure = paired_line_figure(series, base="PPO", xlabel="step", ylabel="reward")
    notes = (
        SMOOTHED,
        "A policy has converged at the first step at which the running mean reaches that of the last quarter of the "
        "slower policy's curve. A policy that never reaches it counts with all its steps. If neither policy reaches "
        "it before that quarter, both may still be learning, and the seed decides nothing.",
        *results.plan.notes,
    )
    return ExperimentResult("fig3", TITLE, rows, _verdicts(results), figure=figure, notes=notes)


def _verdicts(results: Results) -> list[Verdict]:
    claims = []
    for text, fast, slow, paper, at_least in _CLAIMS:
        saved = saved_steps(*results.rewards(Arm(fast)), results.rewards(Arm(slow))[1])
        censored = [results.plan.seeds[seed] for seed in saved.censored]
        undecidable = bounds_text(results.plan, Arm(fast), Arm(slow))
        if undecidable is None and censored:
            seeds = f"seed{'s' if len(censored) > 1 else ''} {', '.join(map(str, censored))}"
            undecidable = f"Neither curve reaches the level before the last quarter, which sets it, with {seeds}."
        claims.append(
            ClaimedDifference(
                text,
                saved.shares,
                paper=paper,
                at_least=at_least,
                resolution=saved.resolution,
                undecidable=undecidable,
            )
        )
    return judge_family(claims, unit="%")


@dataclass(frozen=True)
class SavedSteps:
    """Steps that a policy saves until convergence, against a slower one.

    Args:
        shares: Share of the slower policy's steps that is saved, [num_seeds].
        resolution: Share that one point of the curves stands for, at most over the seeds.
        censored: Places of the seeds on which neither curve reaches the level before the quarter that sets it.
    """

    shares: Sequence[float]
    resolution: float
    censored: Sequence[int]


def saved_steps(steps: Sequence[float], fast: NDArray[np.float64], slow: NDArray[np.float64]) -> SavedSteps:
    """Return the share of steps that the faster policy saves until the slower one has converged.

    The level is the mean of the last quarter of the slower curve, which a curve that still rises reaches in that
    quarter. A seed on which neither curve reaches the level earlier says nothing about convergence.

    Args:
        steps: Steps of the points, [num_points].
        fast: Rewards of the faster policy, float [num_seeds, num_points].
        slow: Rewards of the slower policy, float [num_seeds, num_points].
    """
    shares, reached, censored = [], [], []
    quarter = max(1, len(steps) // 4)
    for seed, (own, other) in enumerate(zip(fast, slow, strict=True)):
        level = float(other[-quarter:].mean())
        ours, theirs = (steps_to_reach(steps, curve, level) for curve in (own, other))
        shares.append(1.0 - ours / theirs)
        reached.append(theirs)
        if min(ours, theirs) >= steps[-quarter]:
            censored.append(seed)
    return SavedSteps(shares, float(np.diff([0.0, *steps]).max()) / min(reached), censored)


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
    ends, (means,) = running_mean(steps, rewards[None])
    reached = np.flatnonzero(means >= level)
    return float(ends[reached[0]] if len(reached) else steps[-1])


EXPERIMENT = Experiment("fig3", TITLE, _trials, _result)
