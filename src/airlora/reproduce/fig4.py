"""Figure 4: accuracy against the SNR of the link."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from airlora.reproduce.experiment import Arm, Claim, Experiment, Results, judge
from airlora.reproduce.figures import PAGE_INCHES, Series, line_figure
from airlora.reproduce.methods import AIRLLM, METHODS
from airlora.reproduce.plan import CONSTANT_RANKS, Plan
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.trial import Trial

__all__ = ["EXPERIMENT"]

TITLE = "Figure 4: accuracy against SNR"

COMPARED = (AIRLLM, "AdaLoRA", "best constant", "greedy", "allocate", "stream")


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
            Arm(AIRLLM, snr_db=snr_db),
            Arm("AdaLoRA", snr_db=snr_db),
        )
        for snr_db in snrs_db
    ]
    return ExperimentResult("fig4", TITLE, rows, judge(results, claims), figure=figure, notes=_notes(results.plan))


def _notes(plan: Plan) -> tuple[str, ...]:
    budget = f"AdaLoRA is trained for the number of parameters that {AIRLLM} sends on the same link."
    if not plan.is_live:
        return (budget, "All other methods choose their ranks on one adapter per seed, which is trained at full rank.")
    r_max = plan.settings().adapter.r_max
    ranks = [str(rank) for rank in CONSTANT_RANKS if rank <= r_max]
    listed = f"{', '.join(ranks[:-1])} and {ranks[-1]}" if len(ranks) > 1 else ranks[0]
    return (
        budget,
        f"{AIRLLM} trains one adapter per seed, for all links, while it chooses the ranks.",
        f"The best constant rank is, for each link, the best of {len(ranks)} adapters of constant rank ({listed}).",
        "The methods greedy, allocate and stream choose from one adapter per seed, which is trained at full rank.",
    )


EXPERIMENT = Experiment("fig4", TITLE, _trials, _result)
