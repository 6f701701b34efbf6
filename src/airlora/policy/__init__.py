"""Rank policies: from an observation to ranks, whatever made them.

`base` says what a policy and a learner are; `ppo_loss`, `gae` and `coarse` are the paper's coarse policy (Eq. 11-12),
`diffusion` its fine one (Eq. 13-19), `hierarchical` both; `allocate` plans on the model that `utility` fits to measured
losses, `cma` searches by CMA-ES; `greedy`, `eva`, `constant`, `random` and `table` learn nothing.
"""

from airlora.allocation import concave_envelope, fill_exactly, fill_greedily, fit_to_budget
from airlora.policy.allocate import AllocatePolicy
from airlora.policy.base import Decision, Learner, PolicyProblem, RankPolicy, Stage
from airlora.policy.buffer import Batch, Buffer, Transition
from airlora.policy.cma import CmaPolicy, link_bin
from airlora.policy.constant import ConstantPolicy
from airlora.policy.diffusion.policy import DiffusionPolicy
from airlora.policy.eva import EvaPolicy
from airlora.policy.factory import POLICIES, load_policy, make_policy, save_policy
from airlora.policy.greedy import GreedyPolicy
from airlora.policy.hierarchical import HierarchicalPolicy
from airlora.policy.ppo import PPOPolicy
from airlora.policy.random import RandomPolicy
from airlora.policy.recipes import RECIPES, Recipe
from airlora.policy.scaling import ranks_to_unit, unit_to_ranks
from airlora.policy.settings import AllocateSettings, CmaSettings, DiffusionSettings, PolicySettings, PPOSettings
from airlora.policy.table import TablePolicy
from airlora.policy.utility.advisor import Advisor
from airlora.policy.utility.fit import Measurements, UtilityFit, fit_utility
from airlora.policy.utility.model import UtilityModel
from airlora.policy.utility.plan import plan_ranks

__all__ = [
    "POLICIES",
    "RECIPES",
    "Advisor",
    "AllocatePolicy",
    "AllocateSettings",
    "Batch",
    "Buffer",
    "CmaPolicy",
    "CmaSettings",
    "ConstantPolicy",
    "Decision",
    "DiffusionPolicy",
    "DiffusionSettings",
    "EvaPolicy",
    "GreedyPolicy",
    "HierarchicalPolicy",
    "Learner",
    "Measurements",
    "PPOPolicy",
    "PPOSettings",
    "PolicyProblem",
    "PolicySettings",
    "RandomPolicy",
    "RankPolicy",
    "Recipe",
    "Stage",
    "TablePolicy",
    "Transition",
    "UtilityFit",
    "UtilityModel",
    "concave_envelope",
    "fill_exactly",
    "fill_greedily",
    "fit_to_budget",
    "fit_utility",
    "link_bin",
    "load_policy",
    "make_policy",
    "plan_ranks",
    "ranks_to_unit",
    "save_policy",
    "unit_to_ranks",
]
