"""Figure 8: ranks by layer and projection for three noise schedules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.reports.tables import projection_column
from airlora.reproduce.experiment import Experiment, Results
from airlora.reproduce.figures import PAGE_INCHES, heat_map_figure
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.statistics import Verdict, holm, judge_difference, paired_comparison
from airlora.reproduce.sweep import AIRLLM, Sweep

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
    for label in SWEEP.settings:
        grids = [_grid(results, label, seed, modules, roles, layers) for seed in results.plan.seeds]
        maps[f"{label}, mean {np.mean(grids):.2f}"] = np.mean(grids, axis=0)
        for seed, grid in zip(results.plan.seeds, grids, strict=True):
            own = results.row(SWEEP.arm(label), label, seed)
            by_role = {f"rank_{role}": float(grid[:, column].mean()) for column, role in enumerate(roles)}
            by_layer = {f"rank_layer_{layer}": float(grid[place].mean()) for place, layer in enumerate(layers)}
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
    return ExperimentResult("fig8", TITLE, rows, _verdicts(results, modules, roles, layers), figure=figure, notes=notes)


def _verdicts(
    results: Results, modules: dict[str, dict[str, Any]], roles: list[str], layers: list[int]
) -> list[Verdict]:
    half = len(layers) // 2
    measures: dict[str, Callable[[NDArray[np.float64]], float]] = {
        "gives lower layers higher ranks than upper layers: lower half minus upper half": (
            lambda grid: float(grid[:half].mean() - grid[len(grid) - half :].mean())
        )
    }
    for role in ("o", "fc1"):
        if role in roles:
            text = f"gives {role} a higher rank than the mean module: difference"
            measures[text] = partial(_above_mean, column=roles.index(role))
    comparisons = {}
    for text, measure in measures.items():
        values = [measure(_grid(results, OURS, seed, modules, roles, layers)) for seed in results.plan.seeds]
        comparisons[text] = paired_comparison(values, np.zeros(len(values)))
    corrected = holm([comparison.p_value for comparison in comparisons.values()])
    return [
        judge_difference(f"The schedule scaled-linear {text}", comparison, p_value=p_value, unit="ranks")
        for (text, comparison), p_value in zip(comparisons.items(), corrected, strict=True)
    ]


def _above_mean(grid: NDArray[np.float64], column: int) -> float:
    return float(grid[:, column].mean() - grid.mean())


def _grid(
    results: Results, label: str, seed: int, modules: dict[str, dict[str, Any]], roles: list[str], layers: list[int]
) -> NDArray[np.float64]:
    """Return the ranks of one seed, float [num_layers, num_roles], with the mean of a role that a layer has twice."""
    ranks = results.link(SWEEP.arm(label), seed)["ranks"]
    total, count = np.zeros((len(layers), len(roles))), np.zeros((len(layers), len(roles)))
    for name, module in modules.items():
        place = layers.index(module["layer"]), roles.index(projection_column(name, module))
        total[place] += ranks[name]
        count[place] += 1
    return total / np.maximum(count, 1)


EXPERIMENT = Experiment("fig8", TITLE, SWEEP.trials, _result)
