"""Rank policies: functions from an observation to ranks.

| module | content |
|---|---|
| `base` | protocols of policies and the decision problem |
| `specs` | spec of every policy that users choose by name, and the registry that finds them |
| `factory` | making policies by name; their files |
| `coarse`, `networks`, `ppo_equations`, `ppo` | the paper's coarse policy (Eq. 11-12), and the policy `ppo` |
| `diffusion` | the paper's fine policy (Eq. 13-19), and the policies `ddim` and `distilled` |
| `hierarchical` | the paper's policy `airllm`, which joins both |
| `allocate`, `utility` | the planner, and the utility model that is fitted to measured losses |
| `cma` | black-box search by CMA-ES |
| `greedy`, `eva`, `constant`, `random`, `table` | policies that do not learn |
"""

from airlora.allocation import concave_envelope, fill_exactly, fill_greedily, fit_to_budget
from airlora.policy.allocate import AllocatePolicy
from airlora.policy.base import Decision, Learner, PolicyProblem, RankPolicy, SavablePolicy, SavedByArguments, Stage
from airlora.policy.buffer import Batch, Buffer, Transition
from airlora.policy.cma import CmaPolicy, link_bin
from airlora.policy.constant import ConstantPolicy
from airlora.policy.diffusion.policy import DiffusionPolicy
from airlora.policy.eva import EvaPolicy
from airlora.policy.factory import load_policy, make_policy, save_policy
from airlora.policy.greedy import GreedyPolicy
from airlora.policy.hierarchical import HierarchicalPolicy
from airlora.policy.ppo import PPOPolicy
from airlora.policy.random import RandomPolicy
from airlora.policy.scaling import ranks_to_unit, unit_to_ranks
from airlora.policy.settings import AllocateSettings, CmaSettings, DiffusionSettings, PolicySettings, PPOSettings
from airlora.policy.specs import PolicyInputs, PolicySpec, find_policy, import_policy, policy_specs, register_policy
from airlora.policy.table import TablePolicy
from airlora.policy.utility.advisor import Advisor
from airlora.policy.utility.fit import Measurements, UtilityFit, fit_utility
from airlora.policy.utility.model import UtilityModel
from airlora.policy.utility.plan import plan_ranks

__all__ = [
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
    "PolicyInputs",
    "PolicyProblem",
    "PolicySettings",
    "PolicySpec",
    "RandomPolicy",
    "RankPolicy",
    "SavablePolicy",
    "SavedByArguments",
    "Stage",
    "TablePolicy",
    "Transition",
    "UtilityFit",
    "UtilityModel",
    "concave_envelope",
    "fill_exactly",
    "fill_greedily",
    "find_policy",
    "fit_to_budget",
    "fit_utility",
    "import_policy",
    "link_bin",
    "load_policy",
    "make_policy",
    "plan_ranks",
    "policy_specs",
    "ranks_to_unit",
    "register_policy",
    "save_policy",
    "unit_to_ranks",
]
