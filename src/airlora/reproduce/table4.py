"""Table IV: accuracy and transmitted parameters of AdaLoRA and AirLLM for five maximum ranks."""

from __future__ import annotations

from collections.abc import Sequence

from airlora.reproduce.experiment import Arm, Claim, Experiment, Results, judge
from airlora.reproduce.methods import AIRLLM
from airlora.reproduce.plan import Plan
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.tables import Column, ResultTable, summarise
from airlora.reproduce.trial import Trial
from airlora.reproduce.verdicts import ClaimedDifference, judge_family

__all__ = ["EXPERIMENT", "PAPER", "RANKS"]

TITLE = "Table IV: accuracy and parameters by maximum rank"

ADALORA = "AdaLoRA, r_max"

PAPER = {
    8: ((0.9518, 4_718_592), (0.9564, 4_235_648)),
    16: ((0.9472, 9_437_184), (0.9530, 8_471_296)),
    32: ((0.9541, 18_874_368), (0.9587, 16_942_592)),
    64: ((0.9484, 32_399_048), (0.9553, 28_234_160)),
    128: ((0.9472, 63_870_464), (0.9519, 56_664_832)),
}
"""Accuracy and parameters of the paper by maximum rank: of AdaLoRA, and of AirLLM."""

RANKS = tuple(PAPER)
"""Maximum ranks of the paper."""

_COLUMNS = (
    Column("setting", "setting"),
    Column("method", "method"),
    Column("accuracy", "accuracy", "%"),
    Column("loss", "loss", "number", 4, "nats"),
    Column("num_params", "parameters", "count"),
    Column("paper_num_params", "by the paper's count", "count"),
)


def _arm(method: str, r_max: int) -> Arm:
    return Arm(method, {"adapter.r_max": r_max})


def _trials(plan: Plan) -> Sequence[Trial]:
    return [
        trial
        for r_max in RANKS
        for method in (ADALORA, AIRLLM)
        for seed in plan.seeds
        for trial in plan.trials(method, seed, _arm(method, r_max).changes)
    ]


def _result(results: Results) -> ExperimentResult:
    rows = results.rows({f"r_max {r_max}": [_arm(method, r_max) for method in (ADALORA, AIRLLM)] for r_max in RANKS})
    paper = {
        (method, f"r_max {r_max}"): {"accuracy": accuracy, "paper_num_params": float(count)}
        for r_max, both in PAPER.items()
        for method, (accuracy, count) in zip((ADALORA, AIRLLM), both, strict=True)
    }
    columns, lines = summarise(rows, _COLUMNS, paper=paper)
    claims = [
        Claim(
            f"AirLLM beats AdaLoRA at r_max {r_max}",
            _arm(AIRLLM, r_max),
            _arm(ADALORA, r_max),
            PAPER[r_max][1][0] - PAPER[r_max][0][0],
        )
        for r_max in RANKS
    ]
    verdicts = judge(results, claims)
    savings = [
        ClaimedDifference(
            f"AirLLM sends fewer parameters than AdaLoRA at r_max {r_max}: share saved",
            1.0
            - results.scores(_arm(AIRLLM, r_max), "num_params") / results.scores(_arm(ADALORA, r_max), "num_params"),
            paper=1.0 - PAPER[r_max][1][1] / PAPER[r_max][0][1],
        )
        for r_max in RANKS
    ]
    verdicts += judge_family(savings, unit="%")
    notes = (
        "AdaLoRA has all parameters of rank r_max, as by the paper's counts, which are another budget than AirLLM's "
        "(erratum 9). Table III and Figure 4 compare both at equal parameters.",
        "The paper's counts are those of OPT-1.3B. They take every module as square (see errata 1, 9 and 10).",
    )
    return ExperimentResult("table4", TITLE, rows, verdicts, table=ResultTable("table4", TITLE, columns, lines, notes))


EXPERIMENT = Experiment("table4", TITLE, _trials, _result)
