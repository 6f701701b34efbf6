"""Figure 7: accuracy by the numbers of training and inference steps of the diffusion model."""

from __future__ import annotations

import itertools

import numpy as np

from airlora.reproduce.experiment import Experiment, Results
from airlora.reproduce.figures import heat_map_figure
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.statistics import PairedComparison, Verdict, holm, judge_difference, paired_comparison
from airlora.reproduce.sweep import Sweep

__all__ = ["EXPERIMENT", "SWEEP"]

TITLE = "Figure 7: accuracy by training and inference steps of the diffusion model"

BEST = "1000 × 50"

TRAIN_STEPS, INFERENCE_STEPS = (600, 800, 1000), (30, 50, 100)

SWEEP = Sweep(
    settings={
        f"{train} × {inference}": {
            "diffusion.num_train_timesteps": train,
            "diffusion.num_inference_steps": inference,
        }
        for train, inference in itertools.product(TRAIN_STEPS, INFERENCE_STEPS)
    },
    paper={BEST: 0.9530},
)
"""Numbers of training and inference steps."""


def _result(results: Results) -> ExperimentResult:
    rows = results.rows({label: [SWEEP.arm(label)] for label in SWEEP.settings})
    grid = [
        [float(results.scores(SWEEP.arm(f"{train} × {inference}")).mean()) for inference in INFERENCE_STEPS]
        for train in TRAIN_STEPS
    ]
    figure = heat_map_figure(
        {"": np.asarray(grid)},
        rows=[str(steps) for steps in TRAIN_STEPS],
        columns=[str(steps) for steps in INFERENCE_STEPS],
        colour_label="accuracy, %",
        xlabel="inference steps",
        ylabel="training steps",
        digits=2,
        percent=True,
    )
    return ExperimentResult("fig7", TITLE, rows, _verdicts(results), figure=figure)


def _verdicts(results: Results) -> list[Verdict]:
    others = [label for label in SWEEP.settings if label != BEST]
    comparisons: dict[str, PairedComparison] = {}
    for name, key, sign in (("accuracy", "accuracy", 1.0), ("lower loss", "loss", -1.0)):
        mean = np.mean([results.scores(SWEEP.arm(label), key) for label in others], axis=0)
        comparisons[name] = paired_comparison(sign * results.scores(SWEEP.arm(BEST), key), sign * mean)
    corrected = holm([comparison.p_value for comparison in comparisons.values()])
    return [
        judge_difference(
            f"1000 training and 50 inference steps beat the mean of the eight other settings: {name}",
            comparison,
            p_value=p_value,
            unit="points" if name == "accuracy" else "nats",
        )
        for (name, comparison), p_value in zip(comparisons.items(), corrected, strict=True)
    ]


EXPERIMENT = Experiment("fig7", TITLE, SWEEP.trials, _result)
