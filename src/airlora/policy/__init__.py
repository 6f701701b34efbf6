"""Rank policies: from an observation to ranks, whatever made them.

`base` says what a policy and a learner are; `ppo_loss`, `gae` and `coarse` are the paper's coarse policy (Eq. 11-12),
`diffusion` its fine one (Eq. 13-19), `hierarchical` both; `allocate` plans on the model that `utility` fits to measured
losses, `cma` searches by CMA-ES; `greedy`, `eva`, `constant`, `random` and `table` learn nothing.
"""

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
from airlora.policy.scaling import ranks_to_unit, unit_to_ranks
from airlora.policy.solver import concave_envelope, fill_exactly, fill_greedily, fit_to_budget
from airlora.policy.table import TablePolicy
from airlora.policy.utility import Advisor, Measurements, UtilityFit, UtilityModel, fit_utility, plan_ranks

__all__ = [
    "POLICIES",
    "Advisor",
    "AllocatePolicy",
    "Batch",
    "Buffer",
    "CmaPolicy",
    "ConstantPolicy",
    "Decision",
    "DiffusionPolicy",
    "EvaPolicy",
    "GreedyPolicy",
    "HierarchicalPolicy",
    "Learner",
    "Measurements",
    "PPOPolicy",
    "PolicyProblem",
    "RandomPolicy",
    "RankPolicy",
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
