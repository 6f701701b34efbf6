"""Table V(a): accuracy of the paper's method for three values of lambda."""

from __future__ import annotations

from airlora.reproduce.experiment import Experiment, Results
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.sweep import Sweep

__all__ = ["EXPERIMENT", "SWEEP"]

TITLE = "Table V(a): accuracy by the weight λ of the communication cost"

SWEEP = Sweep(
    settings={f"λ = {value:g}": {"env.cost_weight": value} for value in (1.0, 0.1, 0.01)},
    paper={"λ = 1": 0.9507, "λ = 0.1": 0.9541, "λ = 0.01": 0.9495},
    claims=(
        ("λ = 0.1 beats λ = 1", "λ = 0.1", "λ = 1"),
        ("λ = 0.1 beats λ = 0.01", "λ = 0.1", "λ = 0.01"),
    ),
)
"""Values of lambda."""


def _result(results: Results) -> ExperimentResult:
    notes = ("U + λη has the λ of its line, so it cannot be compared between the lines.",)
    return SWEEP.table(results, "table5a", TITLE, notes)


EXPERIMENT = Experiment("table5a", TITLE, SWEEP.trials, _result)
