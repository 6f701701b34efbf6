"""Figure 5: reward during training for three values of lambda."""

from __future__ import annotations

from airlora.reproduce.experiment import SMOOTHED, Experiment, Results
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.table5a import SWEEP

__all__ = ["EXPERIMENT"]

TITLE = "Figure 5: reward by the weight λ of the communication cost"


def _result(results: Results) -> ExperimentResult:
    figure, rows = SWEEP.reward_figure(results, "λ = 0.1")
    notes = (
        SMOOTHED,
        "Every line has the λ of its own reward R = -U - λη: a larger λ lowers the reward at equal ranks. The heights "
        "of the lines decide nothing about λ.",
    )
    return ExperimentResult("fig5", TITLE, rows, figure=figure, notes=notes)


EXPERIMENT = Experiment("fig5", TITLE, SWEEP.trials, _result)
