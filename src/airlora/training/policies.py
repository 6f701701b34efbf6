"""Making a run's policy from its settings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from airlora.env import RankAllocationEnv
from airlora.packing import measure_explained_variance, measure_importance
from airlora.policy import EvaPolicy, GreedyPolicy, PolicyProblem, RankPolicy, make_policy
from airlora.ranks import params_per_rank
from airlora.training.context import RunContext
from airlora.training.settings import Settings

__all__ = ["build_policy", "policy_needs_trained_adapter", "problem_of", "verify_policy"]


def problem_of(env: RankAllocationEnv) -> PolicyProblem:
    """Return what a policy decides about in that environment."""
    return PolicyProblem(
        module_names=env.names,
        params_per_rank=params_per_rank(env.shapes),
        spec=env.observation_spec,
        cost_weight=env.settings.cost_weight,
        keeps_deadline=env.channel.deadline_mode == "project",
    )


MEASURED = ("greedy", "eva")
"""Policies that are made of what was measured on the model, with no settings of their own."""

PLANNERS = ("allocate", "distilled", "distilled-bare", "ddim-utility")
"""Policies whose utility model decides, and so may start from a belief."""


def policy_needs_trained_adapter(settings: Settings) -> bool:
    """Whether the policy reads the trained adapter's gradients, and so cannot act while it is being trained."""
    return settings.policy.name == "greedy" or _starts_from_importance(settings)


def _starts_from_importance(settings: Settings) -> bool:
    is_frozen = settings.env.objective == "frozen"
    return settings.allocate.prior and is_frozen and settings.policy.name in PLANNERS


def build_policy(settings: Settings, env: RankAllocationEnv, context: RunContext) -> RankPolicy:
    """Return the policy that the settings name, in its initial state.

    On the calibration samples `greedy` measures the importance of every component, and `eva` the variance of the base
    model's activations. Planners on a frozen adapter start from that importance too (`allocate.prior`); all others
    start without having seen the model.

    Raises:
        PolicyError: The policy's settings are not allowed.
    """
    problem = problem_of(env)
    if settings.policy.name == "greedy":
        return GreedyPolicy(problem, _importance(context, settings))
    if settings.policy.name == "eva":
        ratio = measure_explained_variance(
            context.adapted, context.calibration, context.device, settings.finetune.eval_batch_size
        )
        return EvaPolicy(problem, ratio)
    return _make(settings, problem, _importance(context, settings) if _starts_from_importance(settings) else None)


def _importance(context: RunContext, settings: Settings) -> npt.NDArray[np.float64]:
    return measure_importance(context.adapted, context.calibration, context.device, settings.finetune.batch_size)


def verify_policy(settings: Settings, env: RankAllocationEnv) -> None:
    """Raise `PolicyError` if the policy's settings are not allowed, before an adapter is trained that it is to cut."""
    if settings.policy.name not in MEASURED:
        _make(settings, problem_of(env), None)


def _make(settings: Settings, problem: PolicyProblem, prior: npt.NDArray[np.float64] | None) -> RankPolicy:
    return make_policy(
        settings.policy.name,
        problem,
        prior=prior,
        seed=settings.seed,
        ppo=settings.ppo,
        diffusion=settings.diffusion,
        allocate=settings.allocate,
        cma=settings.cma,
        constant_rank=settings.policy.constant_rank,
    )
