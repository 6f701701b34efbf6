"""The decision problem: reward, objectives, and the Gymnasium environment `airlora/RankAllocation-v0`."""

from airlora.channel import Link
from airlora.env.environment import ANALYTIC_CHANNEL, RankAllocationEnv, make_spec
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
    "make_spec",
    "reward",
]
