"""Table VI: time of the policy for three numbers of inference steps, as ratios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airlora.reproduce.experiment import Experiment, Results
from airlora.reproduce.methods import AIRLLM
from airlora.reproduce.plan import Plan
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.tables import Column, ResultTable, summarise
from airlora.reproduce.trial import Trial
from airlora.reproduce.verdicts import ClaimedDifference, judge_family

__all__ = ["EXPERIMENT", "PAPER_SECONDS"]

TITLE = "Table VI: time of decisions and episodes by the number of inference steps"

PAPER_SECONDS = {30: 907, 50: 1037, 100: 1101}
"""Seconds for 1,000 episodes in the paper, by the number of inference steps, at 600 training steps."""

_COLUMNS = (
    Column("setting", "inference steps"),
    Column("decision_ratio", "decision", "number", 2, "× 30 steps"),
    Column("episode_ratio", "episode", "number", 2, "× 30 steps"),
    Column("decision_seconds", "decision", "number", 4, "s"),
    Column("episode_seconds", "episode", "number", 3, "s"),
)


def _trial(plan: Plan, seed: int) -> Trial:
    changes = {
        "policy.name": "airllm",
        "diffusion.num_train_timesteps": 600,
        # The reference size: 24 layers, r_max 64, the paper's link.
        "adapter.r_max": 64,
        "channel.bandwidth_hz": [1e8],
    }
    settings = plan.settings(changes | plan.sweep_updates(changes))
    options = {
        "settings": settings.model_dump(mode="json", exclude={"seed"}),
        "num_layers": 24,
        "inference_steps": list(PAPER_SECONDS),
    }
    return Trial("timing", options, seed, settings.policy.rollout_steps, 0.5)


def _trials(plan: Plan) -> Sequence[Trial]:
    return [_trial(plan, seed) for seed in plan.seeds]


def _result(results: Results) -> ExperimentResult:
    rows: list[dict[str, Any]] = []
    for seed in results.plan.seeds:
        found = results.by_key[_trial(results.plan, seed).key]["seconds"]
        for steps, own in found.items():
            ratios = {f"{key}_ratio": own[f"{key}_seconds"] / found["30"][f"{key}_seconds"] for key in _MEASURED}
            rows.append({"method": AIRLLM, "setting": steps, "seed": seed, **own, **ratios})
    paper = {(str(steps),): {"episode_ratio": seconds / PAPER_SECONDS[30]} for steps, seconds in PAPER_SECONDS.items()}
    columns, lines = summarise(rows, _COLUMNS, by=("setting",), paper=paper)
    last = [row["episode_ratio"] for row in rows if row["setting"] == "100"]
    claim = ClaimedDifference(
        "100 inference steps take longer than 30: time of an episode, as a ratio above 1",
        last,
        1.0,
        paper=PAPER_SECONDS[100] / PAPER_SECONDS[30] - 1.0,
    )
    notes = (
        "A policy for 24 layers (144 modules) on one core, on a loss in closed form: no language model is trained. An "
        "episode has its decisions and its share of the learning stages.",
        "The paper's seconds contain the fine-tuning of OPT-1.3B, which does not depend on the inference steps.",
        "The paper calls its increase of 21 % an increase of 40 % (erratum 11).",
    )
    table = ResultTable("table6", TITLE, columns, lines, notes)
    return ExperimentResult("table6", TITLE, rows, judge_family([claim], unit=""), table=table)


_MEASURED = ("decision", "episode")

EXPERIMENT = Experiment("table6", TITLE, _trials, _result)
