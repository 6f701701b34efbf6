"""The decision problem: reward, objectives, the Gymnasium environment `airlora/RankAllocation-v0`, and its judge."""

from airlora.env.allocation import ANALYTIC_CHANNEL, RankAllocationEnv, make_link, make_spec
from airlora.env.judge import Context, Judge, Regret, judge_env
from airlora.env.links import Link
from airlora.env.objectives import (
    AnalyticObjective,
    FrozenObjective,
    LiveObjective,
    Objective,
    Stepper,
    SyntheticObjective,
)
from airlora.env.reward import allocation_cost, deadline_penalty, reward

__all__ = [
    "ANALYTIC_CHANNEL",
    "AnalyticObjective",
    "Context",
    "FrozenObjective",
    "Judge",
    "Link",
    "LiveObjective",
    "Objective",
    "RankAllocationEnv",
    "Regret",
    "Stepper",
    "SyntheticObjective",
    "allocation_cost",
    "deadline_penalty",
    "judge_env",
    "make_link",
    "make_spec",
    "reward",
]
