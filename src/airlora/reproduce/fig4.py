"""Figure 4: accuracy against the SNR of the link."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from airlora.reproduce.experiment import Arm, Claim, Experiment, Results, judge
from airlora.reproduce.figures import PAGE_INCHES, Series, line_figure
from airlora.reproduce.methods import METHODS
from airlora.reproduce.plan import Plan
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.trial import Trial

__all__ = ["EXPERIMENT"]

TITLE = "Figure 4: accuracy against SNR"

COMPARED = ("PPO+DDIM/MLP", "AdaLoRA", "best constant", "greedy", "allocate", "stream")


def _snrs_db(plan: Plan) -> list[float]:
    return plan.settings().channel.snr_db


def _trials(plan: Plan) -> Sequence[Trial]:
    return [
        trial for name in COMPARED for seed in plan.seeds for trial in plan.trials(name, seed, snrs_db=_snrs_db(plan))
    ]


def _result(results: Results) -> ExperimentResult:
    snrs_db = _snrs_db(results.plan)
    rows = results.rows({f"{snr_db:g} dB": [Arm(name, snr_db=snr_db) for name in COMPARED] for snr_db in snrs_db})
    panels = {
        "accuracy, %": [
            Series(
                name,
                snrs_db,
                np.stack([results.scores(Arm(name, snr_db=snr_db)) for snr_db in snrs_db], axis=1),
                METHODS[name].colour,
                METHODS[name].marker,
                METHODS[name].line,
            )
            for name in COMPARED
        ]
    }
    figure = line_figure(
        {"": panels["accuracy, %"]},
        xlabel="SNR, dB",
        ylabel="accuracy, %",
        width=PAGE_INCHES,
        height=2.8,
        percent=True,
        intervals="bars",
    )
    claims = [
        Claim(
            f"AirLLM beats AdaLoRA at {snr_db:g} dB (paper: .36 to .46 points)",
            Arm("PPO+DDIM/MLP", snr_db=snr_db),
            Arm("AdaLoRA", snr_db=snr_db),
        )
        for snr_db in snrs_db
    ]
    notes = ("AdaLoRA is trained for the budget of every link. All other methods truncate or choose from one adapter.",)
    return ExperimentResult("fig4", TITLE, rows, judge(results, claims), figure=figure, notes=notes)


EXPERIMENT = Experiment("fig4", TITLE, _trials, _result)
