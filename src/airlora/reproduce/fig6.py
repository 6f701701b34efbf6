"""Figure 6: reward during training for three prediction types of the diffusion model."""

from __future__ import annotations

import numpy as np

from airlora.reproduce.experiment import SMOOTHED, Experiment, Results
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.statistics import holm, judge_difference, paired_comparison
from airlora.reproduce.table5b import SWEEP

__all__ = ["EXPERIMENT"]

TITLE = "Figure 6: reward by the prediction type of the diffusion model"


def _result(results: Results) -> ExperimentResult:
    figure, rows = SWEEP.reward_figure(results)
    last = {label: _last_quarter(results.rewards(SWEEP.arm(label))[1]) for label in SWEEP.settings}
    others = ("ε", "x₀")
    comparisons = {other: paired_comparison(last["v"], last[other], num_tests=len(others)) for other in others}
    corrected = holm([comparison.p_value for comparison in comparisons.values()])
    verdicts = [
        judge_difference(
            f"v-prediction has a higher reward than {other}-prediction: mean of the last quarter",
            comparison,
            p_value=p_value,
            unit="",
        )
        for (other, comparison), p_value in zip(comparisons.items(), corrected, strict=True)
    ]
    return ExperimentResult("fig6", TITLE, rows, verdicts, figure=figure, notes=(SMOOTHED,))


def _last_quarter(rewards: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> list[float]:
    return [float(curve[-max(1, len(curve) // 4) :].mean()) for curve in rewards]


EXPERIMENT = Experiment("fig6", TITLE, SWEEP.trials, _result)
