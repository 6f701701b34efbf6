"""Inputs of the diffusion losses, made from a buffer of transitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from airlora.observation import Observation
from airlora.policy.buffer import Batch, Buffer
from airlora.policy.diffusion.advantage import contextual_advantage
from airlora.policy.diffusion.losses import DiffusionBatch, LossContext
from airlora.policy.scaling import ranks_to_unit
from airlora.policy.utility.planner import TEXT_SLICE, UtilityPlanner

__all__ = ["loss_context"]


def loss_context(
    buffer: Buffer,
    rollout: int,
    *,
    buffer_size: int,
    planner: UtilityPlanner,
    conditions: Callable[[Batch, Sequence[Observation]], Tensor],
    encode: Callable[[Sequence[Observation]], Tensor],
    values: Callable[[Tensor], Tensor] | None = None,
    device: str = "cpu",
) -> LossContext:
    """Return the inputs of a diffusion loss, made from the newest max(`rollout`, `buffer_size`) transitions.

    Args:
        buffer: Buffer of transitions.
        rollout: Number of newest transitions that the current policy made.
        buffer_size: Number of newest transitions to learn from; the whole rollout is always included.
        planner: Utility planner of the policy.
        conditions: Function (batch, observations) -> conditions that the decisions were sampled with, float [N, C].
        encode: Function observations -> conditions of new decisions, float [n, C].
        values: Critic, a function states, float [N, S] -> V(s), float [N].  None estimates the baseline by regression.
        device: Torch device of the returned tensors.
    """
    count = min(len(buffer), max(rollout, buffer_size))
    batch = buffer.newest(count, device)
    observations = buffer.observations(count)
    executed = torch.from_numpy(ranks_to_unit(batch.ranks.cpu().numpy(), planner.problem.r_max)).to(device)
    baselines = None if values is None else values(batch.vectors)
    budgets = torch.tensor([float(observation.budget_params) for observation in observations], device=device)
    return LossContext(
        batch=DiffusionBatch(
            x0=executed,
            condition=conditions(batch, observations).to(device),
            reward=batch.rewards,
            advantage=contextual_advantage(batch.vectors, batch.rewards, baselines),
            budget=budgets,
            text=batch.vectors[:, TEXT_SLICE],
        ),
        chains=None if batch.chains is None else batch.chains[-rollout:],
        observations=observations,
        encode=encode,
        planner=planner,
    )
