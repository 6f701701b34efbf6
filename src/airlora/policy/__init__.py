"""Rank policies: from an observation to ranks, whatever made them.

`base` says what a policy and a learner are; `ppo_loss`, `gae` and `coarse` are the paper's coarse policy (Eq. 11-12),
`diffusion` its fine one (Eq. 13-19), `hierarchical` both; `allocate` plans on fitted loss curves; `greedy`, `constant`,
`random` and `table` learn nothing.
"""

from airlora.policy.allocate import AllocatePolicy
from airlora.policy.base import Decision, Learner, PolicyProblem, RankPolicy, Stage
from airlora.policy.buffer import Batch, Buffer, Transition
from airlora.policy.constant import ConstantPolicy
from airlora.policy.curves import CurveFit, fit_curves, rank_knots
from airlora.policy.diffusion.policy import DiffusionPolicy
from airlora.policy.factory import POLICIES, load_policy, make_policy, save_policy
from airlora.policy.greedy import GreedyPolicy
from airlora.policy.hierarchical import HierarchicalPolicy
from airlora.policy.ppo import PPOPolicy
from airlora.policy.random import RandomPolicy
from airlora.policy.scaling import ranks_to_unit, unit_to_ranks
from airlora.policy.solver import concave_envelope, fill_greedily
from airlora.policy.table import TablePolicy

__all__ = [
    "POLICIES",
    "AllocatePolicy",
    "Batch",
    "Buffer",
    "ConstantPolicy",
    "CurveFit",
    "Decision",
    "DiffusionPolicy",
    "GreedyPolicy",
    "HierarchicalPolicy",
    "Learner",
    "PPOPolicy",
    "PolicyProblem",
    "RandomPolicy",
    "RankPolicy",
    "Stage",
    "TablePolicy",
    "Transition",
    "concave_envelope",
    "fill_greedily",
    "fit_curves",
    "load_policy",
    "make_policy",
    "rank_knots",
    "ranks_to_unit",
    "save_policy",
    "unit_to_ranks",
]
