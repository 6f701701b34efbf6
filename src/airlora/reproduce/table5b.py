"""Table V(b): accuracy of the paper's method for three prediction types of the diffusion model."""

from __future__ import annotations

from airlora.reproduce.experiment import Experiment, Results
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.sweep import Sweep

__all__ = ["EXPERIMENT", "SWEEP"]

TITLE = "Table V(b): accuracy by the prediction type of the diffusion model"

SWEEP = Sweep(
    settings={
        "v": {"diffusion.prediction_type": "v_prediction"},
        "ε": {"diffusion.prediction_type": "epsilon"},
        "x₀": {"diffusion.prediction_type": "sample"},
    },
    paper={"v": 0.9530, "ε": 0.9530, "x₀": 0.9507},
    claims=(("v-prediction beats x₀-prediction", "v", "x₀"), ("ε-prediction beats x₀-prediction", "ε", "x₀")),
)
"""Prediction types."""


def _result(results: Results) -> ExperimentResult:
    return SWEEP.table(results, "table5b", TITLE)


EXPERIMENT = Experiment("table5b", TITLE, SWEEP.trials, _result)
