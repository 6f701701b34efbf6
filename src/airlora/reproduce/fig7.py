"""Figure 7: accuracy by the numbers of training and inference steps of the diffusion model."""

from __future__ import annotations

import itertools

import numpy as np

from airlora.reproduce.experiment import Claim, Experiment, Results, judge
from airlora.reproduce.figures import heat_map_figure
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.sweep import Sweep

__all__ = ["EXPERIMENT", "SWEEP"]

TITLE = "Figure 7: accuracy by training and inference steps of the diffusion model"

TRAIN_STEPS, INFERENCE_STEPS = (600, 800, 1000), (30, 50, 100)

SWEEP = Sweep(
    settings={
        f"{train} × {inference}": {
            "diffusion.num_train_timesteps": train,
            "diffusion.num_inference_steps": inference,
        }
        for train, inference in itertools.product(TRAIN_STEPS, INFERENCE_STEPS)
    },
    paper={"1000 × 50": 0.9530},
)
"""Numbers of training and inference steps."""


def _result(results: Results) -> ExperimentResult:
    best = "1000 × 50"
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
        ylabel="training steps of the forward process",
        digits=2,
        percent=True,
    )
    claims = [
        Claim(f"1000 × 50 beats {label}", SWEEP.arm(best), SWEEP.arm(label))
        for label in SWEEP.settings
        if label != best
    ]
    return ExperimentResult("fig7", TITLE, rows, judge(results, claims), figure=figure)


EXPERIMENT = Experiment("fig7", TITLE, SWEEP.trials, _result)
