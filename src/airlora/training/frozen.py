"""Decision problem on a frozen adapter, and learning of policies in it."""

from __future__ import annotations

from collections.abc import Callable

from airlora.env import FrozenObjective, LiveObjective, Objective, RankAllocationEnv
from airlora.policy import RankPolicy
from airlora.tasks import pick_autocast
from airlora.training.algorithm1 import Algorithm1, StepRecord, is_learner
from airlora.training.context import RunContext
from airlora.training.policies import build_policy
from airlora.training.settings import Settings, with_policy

__all__ = ["frozen_env", "frozen_objective", "learn_on_frozen", "make_env"]


def frozen_objective(context: RunContext, settings: Settings) -> FrozenObjective:
    """Return the loss of the adapter on its calibration samples as a function of the ranks.

    Each batch contains samples of similar length, so that the batches differ in their text features.

    Args:
        context: Model, adapter and calibration samples.
        settings: Settings of the run. `env.frozen_batch_size` and `finetune.precision` are used.
    """
    indices = list(context.calibration.in_order(settings.env.frozen_batch_size))
    return FrozenObjective(
        context.adapted,
        context.task,
        [context.calibration.batch(part, context.device) for part in indices],
        [context.calibration.complexity(part) for part in indices],
        autocast=pick_autocast(settings.finetune.precision, context.device),
    )


def make_env(objective: Objective, context: RunContext, settings: Settings) -> RankAllocationEnv:
    """Return the decision problem of a run on an objective.

    The losses of an objective other than `LiveObjective` have no trend, so `env.reward_trend_steps` is 0 for them.

    Args:
        objective: Loss as a function of the ranks.
        context: Model and adapter of the run.
        settings: Settings of the run. The sections `channel` and `env` are used, and `policy.constant_rank`.
    """
    own = settings.env
    if not isinstance(objective, LiveObjective):
        own = own.model_copy(update={"reward_trend_steps": 0})
    return RankAllocationEnv(
        objective,
        channel=settings.channel,
        env=own,
        initial_rank=settings.policy.constant_rank,
        hidden_size=context.hidden_size,
    )


def frozen_env(context: RunContext, settings: Settings) -> RankAllocationEnv:
    """Return the decision problem on the frozen adapter; the arguments are those of `make_env`."""
    return make_env(frozen_objective(context, settings), context, settings)


def learn_on_frozen(
    name: str,
    context: RunContext,
    settings: Settings,
    *,
    evaluations: int,
    on_start: Callable[[], None] = lambda: None,
    on_step: Callable[[StepRecord], None] = lambda record: None,
) -> RankPolicy:
    """Return a policy for the frozen adapter, after training it if it learns.

    Args:
        name: Name of a known policy.
        context: Model, adapter and calibration samples.
        settings: Settings of the run. The overrides of the policy's spec replace their values.
        evaluations: Number of loss measurements for a policy that learns.
        on_start: Function called before training, if the policy learns.
        on_step: Function called with the result of every training step.
    """
    own = with_policy(settings, name)
    env = frozen_env(context, own)
    policy = build_policy(own, env, context)
    if is_learner(policy):
        # The seed of fine-tuning would draw the same links again.
        algorithm = Algorithm1(
            env, policy, rollout_steps=own.policy.rollout_steps, buffer_size=evaluations, seed=own.seed + 1
        )
        on_start()
        while algorithm.num_steps < evaluations:
            on_step(algorithm.step())
    return policy
