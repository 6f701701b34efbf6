"""The decision problem: reward, objectives, the Gymnasium environment `airlora/RankAllocation-v0`, and its judge."""

from airlora.env.environment import ANALYTIC_CHANNEL, RankAllocationEnv, make_link, make_spec
from airlora.env.links import Link
from airlora.env.objectives.analytic import AnalyticObjective
from airlora.env.objectives.base import Objective
from airlora.env.objectives.frozen import FrozenObjective
from airlora.env.objectives.live import LiveObjective, Stepper
from airlora.env.reward import allocation_cost, deadline_penalty, reward
from airlora.env.settings import EnvSettings

__all__ = [
    "ANALYTIC_CHANNEL",
    "AnalyticObjective",
    "EnvSettings",
    "FrozenObjective",
    "Link",
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
