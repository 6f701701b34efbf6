"""Policies by name, and their files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from airlora.errors import PolicyError
from airlora.files import seal, unseal, write_bytes
from airlora.policy.allocate import AllocatePolicy
from airlora.policy.base import PolicyProblem, RankPolicy
from airlora.policy.cma import CmaPolicy
from airlora.policy.constant import ConstantPolicy
from airlora.policy.diffusion.policy import DiffusionPolicy
from airlora.policy.eva import EvaPolicy
from airlora.policy.greedy import GreedyPolicy
from airlora.policy.hierarchical import HierarchicalPolicy
from airlora.policy.ppo import PPOPolicy
from airlora.policy.random import RandomPolicy
from airlora.policy.recipes import RECIPES
from airlora.policy.settings import AllocateSettings, CmaSettings, DiffusionSettings, PPOSettings
from airlora.policy.table import TablePolicy

__all__ = ["POLICIES", "load_policy", "make_policy", "save_policy"]

POLICIES: Mapping[str, type[RankPolicy]] = {
    cls.name: cls
    for cls in (
        HierarchicalPolicy,
        PPOPolicy,
        DiffusionPolicy,
        CmaPolicy,
        AllocatePolicy,
        GreedyPolicy,
        EvaPolicy,
        ConstantPolicy,
        RandomPolicy,
        TablePolicy,
    )
}
"""Every policy by its name."""

# A file is one line, "airlora-policy VERSION SHA-256", and then torch's archive, which that digest is of.
_VERSION = 3


def make_policy(
    name: str,
    problem: PolicyProblem,
    *,
    seed: int,
    ppo: PPOSettings | None = None,
    diffusion: DiffusionSettings | None = None,
    allocate: AllocateSettings | None = None,
    cma: CmaSettings | None = None,
    constant_rank: int = 1,
    prior: npt.ArrayLike | None = None,
    device: str = "cpu",
) -> RankPolicy:
    """Return the policy called `name` in its initial state.

    Args:
        name: Of `RECIPES`; what a recipe sets is in the sections already if `load_settings` made them. `greedy`, `eva`
            and `table` are made of what was measured elsewhere: call their classes.
        problem: What is decided about.
        seed: Of weights and draws.
        ppo: Settings of the coarse policy.
        diffusion: Settings of the fine policy.
        allocate: Settings of the planner.
        cma: Settings of the search by CMA-ES.
        constant_rank: Of the policy `constant`.
        prior: Of policies with a utility model, see `Advisor`.
        device: Where networks live.

    Raises:
        PolicyError: The name is unknown, or a setting is not allowed.

    >>> from airlora.observation import ObservationSpec
    >>> problem = PolicyProblem(("a",), (3,), ObservationSpec(num_modules=1, r_max=2))
    >>> make_policy("constant", problem, seed=0, constant_rank=2).name
    'constant'
    """
    ppo, diffusion, allocate = ppo or PPOSettings(), diffusion or DiffusionSettings(), allocate or AllocateSettings()
    asked = name
    name = RECIPES[name].policy if name in RECIPES else name
    if name == HierarchicalPolicy.name:
        return HierarchicalPolicy(problem, ppo, diffusion, allocate=allocate, seed=seed, device=device)
    if name == PPOPolicy.name:
        return PPOPolicy(problem, ppo, seed=seed, device=device)
    if name == DiffusionPolicy.name:
        return DiffusionPolicy(problem, diffusion, allocate=allocate, prior=prior, seed=seed, device=device)
    if name == CmaPolicy.name:
        return CmaPolicy(problem, cma or CmaSettings(), seed=seed)
    if name == AllocatePolicy.name:
        return AllocatePolicy(problem, allocate, seed=seed, prior=prior)
    if name == ConstantPolicy.name:
        return ConstantPolicy(problem, constant_rank)
    if name == RandomPolicy.name:
        return RandomPolicy(problem, seed=seed)
    made_elsewhere = {GreedyPolicy.name, EvaPolicy.name}
    names = [key for key, recipe in RECIPES.items() if recipe.policy not in made_elsewhere]
    raise PolicyError.of("policy.name", asked, f"one of {', '.join(names)}")


def save_policy(policy: RankPolicy, path: Path | str) -> None:
    """Write a policy with its problem, arguments and state to `path`, whole or not at all; raises `StorageError`."""
    buffer = io.BytesIO()
    value = {
        "name": policy.name,
        "problem": policy.problem.to_dict(),
        "arguments": policy.arguments,
        "state": policy.state_dict(),
    }
    torch.save(value, buffer)
    write_bytes(path, seal(buffer.getvalue(), "policy", _VERSION))


def load_policy(path: Path | str, problem: PolicyProblem | None = None, device: str = "cpu") -> RankPolicy:
    """Return the policy in `path`; no code in the file is ever run.

    Args:
        path: A file of `save_policy`.
        problem: What it is to decide about; the default is whatever it was made for.
        device: Where networks live.

    Raises:
        PolicyError: The file is missing, damaged, not airlora's, of another version, or made for another model or
            r_max.
    """
    content = unseal(path, "policy", _VERSION, PolicyError)
    try:
        value: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for refused pickles
        raise PolicyError(f"policy {path}: damaged or not a policy ({type(error).__name__})") from error
    try:
        own = PolicyProblem.from_dict(value["problem"])
        policy = POLICIES[value["name"]].from_arguments(own, value["arguments"], device)
        policy.load_state_dict(value["state"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise PolicyError(f"policy {path}: damaged ({type(error).__name__}: {error})") from error
    if problem is not None:
        own.verify_same(problem)
    return policy
