"""Policies on one frozen adapter: the decision problem, and learning in it."""

from __future__ import annotations

from collections.abc import Callable

from airlora.env import RankAllocationEnv
from airlora.policy import RankPolicy
from airlora.training.algorithm1 import Algorithm1, StepRecord, is_learner
from airlora.training.context import Workbench
from airlora.training.policies import build_policy
from airlora.training.settings import Settings, with_policy
from airlora.training.train import frozen_objective

__all__ = ["frozen_env", "learn_on_frozen"]


def frozen_env(bench: Workbench, settings: Settings) -> RankAllocationEnv:
    """Return the decision problem on the workbench's adapter as it is."""
    return RankAllocationEnv(
        frozen_objective(bench, settings),
        channel=settings.channel,
        env=settings.env,
        initial_rank=settings.policy.constant_rank,
        hidden_size=bench.hidden_size,
    )


def learn_on_frozen(
    name: str,
    bench: Workbench,
    settings: Settings,
    *,
    evaluations: int,
    on_start: Callable[[], None] = lambda: None,
    on_step: Callable[[StepRecord], None] = lambda record: None,
) -> RankPolicy:
    """Return the policy of that name for the workbench's adapter, after so many measured losses if it learns.

    Args:
        name: Of `RECIPES`.
        bench: Model, adapter and calibration samples.
        settings: Of the run; the policy's recipe is laid over them.
        evaluations: Measured losses.
        on_start: Called before learning, if the policy learns.
        on_step: Called after every measured loss.
    """
    own = with_policy(settings, name)
    env = frozen_env(bench, own)
    policy = build_policy(own, env, bench)
    if is_learner(policy):
        # Not the seed of fine-tuning, whose draws of links would come again.
        algorithm = Algorithm1(
            env, policy, rollout_steps=own.policy.rollout_steps, buffer_size=evaluations, seed=own.seed + 1
        )
        on_start()
        while algorithm.num_steps < evaluations:
            on_step(algorithm.step())
    return policy
