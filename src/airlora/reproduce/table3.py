"""Table III: accuracy of the variants of AirLLM and of AdaLoRA, with simpler methods beside them."""

from __future__ import annotations

from collections.abc import Sequence

from airlora.reproduce.experiment import Arm, Claim, Experiment, Results, judge
from airlora.reproduce.methods import AIRLLM, METHODS, PAPER_METHODS
from airlora.reproduce.plan import REFERENCE_SNR_DB, Plan
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.statistics import interquartile_mean
from airlora.reproduce.tables import Column, ResultTable, summarise
from airlora.reproduce.trial import Trial

__all__ = ["EXPERIMENT", "PAPER_ACCURACY"]

TITLE = "Table III: accuracy of policies and baselines"

SETTING = f"{REFERENCE_SNR_DB:g} dB"

PAPER_ACCURACY = dict(zip(PAPER_METHODS, (0.9450, 0.9472, 0.9541, 0.9553, 0.9530, 0.9518), strict=True))
"""Accuracies of the paper by method."""

_PAPER_CLAIMS = (
    ("PPO then DDIM beats PPO alone", "PPO"),
    ("PPO then DDIM beats DDIM alone", "DDIM"),
    ("PPO then DDIM beats PPO then DDPM", "PPO+DDPM"),
    ("The MLP beats the U-Net", "PPO+DDIM/U-Net"),
    ("PPO then DDIM beats AdaLoRA", "AdaLoRA"),
)
"""Claims that `AIRLLM` beats another method."""

_OWN_CLAIMS = (
    ("PPO then DDIM beats random ranks", AIRLLM, "random"),
    ("PPO then DDIM beats the best constant rank", AIRLLM, "best constant"),
    ("The planner allocate beats PPO then DDIM", "allocate", AIRLLM),
)
"""Claims as (sentence, method that is better, method that is worse)."""

_COLUMNS = (
    Column("method", "method"),
    Column("accuracy", "accuracy", "%"),
    Column("loss", "loss", "number", 4, "nats"),
    Column("objective", "U + λη", "number", 4),
    Column("num_params", "parameters", "count"),
    Column("cost", "η", "number", 3),
)


def _trials(plan: Plan) -> Sequence[Trial]:
    return [trial for method in METHODS for seed in plan.seeds for trial in plan.trials(method, seed)]


def _result(results: Results) -> ExperimentResult:
    rows = results.rows({SETTING: [Arm(method) for method in METHODS]})
    paper = {(method, SETTING): {"accuracy": value} for method, value in PAPER_ACCURACY.items()}
    columns, lines = summarise(rows, _COLUMNS, paper=paper)
    if len(results.plan.seeds) > 1:
        columns.insert(3, Column("iqm", "interquartile mean", "%"))
        for line in lines:
            line["iqm"] = interquartile_mean(results.scores(Arm(str(line["method"]))))
    claims = [
        Claim(text, Arm(AIRLLM), Arm(worse), PAPER_ACCURACY[AIRLLM] - PAPER_ACCURACY[worse])
        for text, worse in _PAPER_CLAIMS
    ] + [
        # Methods whose communication costs differ are compared by the objective, which contains the cost.
        Claim(text, Arm(better), Arm(worse), source="airlora", measures=("objective",))
        for text, better, worse in _OWN_CLAIMS
    ]
    notes = (
        f"All methods at {SETTING}, the median SNR. λ = {results.plan.cost_weight:g}. Loss and U are measured on the "
        "evaluation data.",
        f"AdaLoRA, LoRA and rsLoRA are trained for the number of parameters that {AIRLLM} sends on the same link. The "
        "stream holds components at mixed precision; its η is the airtime of its bytes.",
    )
    table = ResultTable("table3", TITLE, columns, lines, (*notes, *results.plan.notes))
    return ExperimentResult("table3", TITLE, rows, judge(results, claims), table=table)


EXPERIMENT = Experiment("table3", TITLE, _trials, _result)
