"""Figure 8: ranks by layer and projection for three noise schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.reports.tables import projection_column
from airlora.reproduce.experiment import Claim, Experiment, Results, judge
from airlora.reproduce.figures import PAGE_INCHES, heat_map_figure
from airlora.reproduce.methods import AIRLLM
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.sweep import Sweep
from airlora.reproduce.verdicts import ClaimedDifference, Verdict, judge_family

__all__ = ["EXPERIMENT", "SWEEP"]

TITLE = "Figure 8: ranks by layer and projection for each noise schedule"

OURS = "scaled-linear"

SWEEP = Sweep(
    settings={
        OURS: {"diffusion.beta_schedule": "scaled_linear"},
        "linear": {"diffusion.beta_schedule": "linear"},
        "cosine": {"diffusion.beta_schedule": "cosine"},
    },
    paper={},
)
"""Noise schedules."""


def _result(results: Results) -> ExperimentResult:
    modules: dict[str, dict[str, Any]] = results.of(SWEEP.arm(OURS), results.plan.seeds[0])["modules"]
    roles = list(dict.fromkeys(projection_column(name, module) for name, module in modules.items()))
    layers = sorted({module["layer"] for module in modules.values()})
    rows: list[dict[str, Any]] = []
    maps: dict[str, NDArray[np.float64]] = {}
    by_label: dict[str, NDArray[np.float64]] = {}
    for label in SWEEP.settings:
        grids = np.stack([_grid(results, label, seed, modules, roles, layers) for seed in results.plan.seeds])
        by_label[label] = grids
        maps[f"{label}, mean {np.nanmean(grids):.2f}"] = grids.mean(axis=0)
        for seed, grid in zip(results.plan.seeds, grids, strict=True):
            own = results.row(SWEEP.arm(label), label, seed)
            by_role = {f"rank_{role}": float(np.nanmean(grid[:, column])) for column, role in enumerate(roles)}
            by_layer = {f"rank_layer_{layer}": float(np.nanmean(grid[place])) for place, layer in enumerate(layers)}
            rows.append({**own, "method": AIRLLM, **by_role, **by_layer})
    figure = heat_map_figure(
        maps,
        rows=[str(layer) for layer in layers],
        columns=roles,
        colour_label="rank",
        ylabel="layer",
        width=PAGE_INCHES,
    )
    notes = ("Ranks at the median SNR. Means over seeds.",)
    others = [label for label in SWEEP.settings if label != OURS]
    beats = Claim(
        f"The schedule {OURS} beats the mean of {' and '.join(others)}",
        SWEEP.arm(OURS),
        [SWEEP.arm(label) for label in others],
    )
    verdicts = judge(results, [beats]) + _rank_verdicts(by_label, roles)
    return ExperimentResult("fig8", TITLE, rows, verdicts, figure=figure, notes=notes)


def _rank_verdicts(by_label: Mapping[str, NDArray[np.float64]], roles: Sequence[str]) -> list[Verdict]:
    """Return verdicts on where the ranks lie: against the other schedules, and within the paper's schedule.

    Args:
        by_label: Ranks by schedule, float [num_seeds, num_layers, num_roles]. NaN for a module that does not exist.
        roles: Roles of the last axis.
    """
    measures: list[tuple[str, str, Callable[[NDArray[np.float64]], float]]] = []
    if next(iter(by_label.values())).shape[1] >= 2:
        measures.append(("lower layers", "upper layers", _lower_above_upper))
    measures += [
        (role, "the mean module", partial(_above_mean, column=roles.index(role)))
        for role in ("o", "fc1")
        if role in roles
    ]
    others = [label for label in by_label if label != OURS]
    claims: list[ClaimedDifference] = []
    for above, below, measure in measures:
        values = {label: np.asarray([measure(grid) for grid in grids]) for label, grids in by_label.items()}
        text = f"The schedule {OURS} gives {above} a higher rank than {below}"
        mean = np.mean([values[label] for label in others], axis=0)
        more = f"{text}, by more than {' and '.join(others)} on average"
        claims += [ClaimedDifference(more, values[OURS], mean), ClaimedDifference(text, values[OURS])]
    return judge_family(claims, unit="ranks")


def _lower_above_upper(grid: NDArray[np.float64]) -> float:
    """Return the mean rank of the lower half of the layers minus that of the upper half, without a middle layer."""
    half = len(grid) // 2
    return float(np.nanmean(grid[:half]) - np.nanmean(grid[len(grid) - half :]))


def _above_mean(grid: NDArray[np.float64], column: int) -> float:
    """Return the mean rank of a role minus that of all modules."""
    return float(np.nanmean(grid[:, column]) - np.nanmean(grid))


def _grid(
    results: Results, label: str, seed: int, modules: dict[str, dict[str, Any]], roles: list[str], layers: list[int]
) -> NDArray[np.float64]:
    """Return the ranks of one seed, float [num_layers, num_roles].

    A role that a layer has twice has the mean of both ranks. A module that does not exist has NaN.
    """
    ranks = results.link(SWEEP.arm(label), seed)["ranks"]
    total, count = np.zeros((len(layers), len(roles))), np.zeros((len(layers), len(roles)))
    for name, module in modules.items():
        place = layers.index(module["layer"]), roles.index(projection_column(name, module))
        total[place] += ranks[name]
        count[place] += 1
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


EXPERIMENT = Experiment("fig8", TITLE, SWEEP.trials, _result)
