"""The decision problem: reward, objectives and the Gymnasium environment `airlora/RankAllocation-v0`."""

from airlora.env.allocation import ANALYTIC_CHANNEL, RankAllocationEnv, make_link, make_spec
from airlora.env.objectives import AnalyticObjective, FrozenObjective, LiveObjective, Objective, Stepper
from airlora.env.reward import allocation_cost, deadline_penalty, reward

__all__ = [
    "ANALYTIC_CHANNEL",
    "AnalyticObjective",
    "FrozenObjective",
    "LiveObjective",
    "Objective",
    "RankAllocationEnv",
    "Stepper",
    "allocation_cost",
    "deadline_penalty",
    "make_link",
    "make_spec",
    "reward",
]
