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
    claim = Claim(
        "1000 training and 50 inference steps beat the mean of the eight other settings",
        SWEEP.arm(BEST),
        [SWEEP.arm(label) for label in SWEEP.settings if label != BEST],
    )
    notes = (f"The paper states {100 * SWEEP.paper[BEST]:.2f} % at 1000 training and 50 inference steps.",)
    return ExperimentResult("fig7", TITLE, rows, judge(results, [claim]), figure=figure, notes=notes)


EXPERIMENT = Experiment("fig7", TITLE, SWEEP.trials, _result)
