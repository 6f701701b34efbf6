"""Figure 6: reward during training for three prediction types of the diffusion model."""

from __future__ import annotations

import numpy as np

from airlora.reproduce.experiment import SMOOTHED, Experiment, Results
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.table5b import SWEEP
from airlora.reproduce.verdicts import ClaimedDifference, judge_family

__all__ = ["EXPERIMENT"]

TITLE = "Figure 6: reward by the prediction type of the diffusion model"


def _result(results: Results) -> ExperimentResult:
    figure, rows = SWEEP.reward_figure(results, "ε")
    last = {label: _last_quarter(results.rewards(SWEEP.arm(label))[1]) for label in SWEEP.settings}
    claims = [
        ClaimedDifference(
            f"v-prediction has a higher reward than {other}-prediction: mean of the last quarter",
            last["v"],
            last[other],
        )
        for other in ("ε", "x₀")
    ]
    verdicts = judge_family(claims, unit="")
    return ExperimentResult("fig6", TITLE, rows, verdicts, figure=figure, notes=(SMOOTHED,))


def _last_quarter(rewards: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> list[float]:
    return [float(curve[-max(1, len(curve) // 4) :].mean()) for curve in rewards]


EXPERIMENT = Experiment("fig6", TITLE, SWEEP.trials, _result)
