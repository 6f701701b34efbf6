"""From a buffer to what a diffusion loss looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from airlora.observation import Observation
from airlora.policy.buffer import Batch, Buffer
from airlora.policy.diffusion.advantage import contextual_advantage
from airlora.policy.diffusion.losses import DiffusionBatch, LossContext
from airlora.policy.scaling import ranks_to_unit
from airlora.policy.utility.advisor import TEXT, Advisor

__all__ = ["loss_context"]


def loss_context(
    buffer: Buffer,
    rollout: int,
    *,
    buffer_size: int,
    advisor: Advisor,
    conditions: Callable[[Batch, Sequence[Observation]], Tensor],
    encode: Callable[[Sequence[Observation]], Tensor],
    values: Callable[[Tensor], Tensor] | None = None,
    device: str = "cpu",
) -> LossContext:
    """Return the newest decisions, `buffer_size` of them or the whole rollout, as a loss sees them.

    Args:
        buffer: Everything remembered.
        rollout: How many of the newest were drawn from the policy as it is now.
        buffer_size: How many to learn from.
        advisor: The policy's utility model.
        conditions: (batch, observations) -> what the sampler was told, float [N, C].
        encode: Observations -> what the sampler would be told, float [n, C].
        values: States, float [N, S] -> V(s), float [N]; none: no critic.
        device: Of the tensors.
    """
    count = min(len(buffer), max(rollout, buffer_size))
    batch = buffer.newest(count, device)
    observations = buffer.observations(count)
    executed = torch.from_numpy(ranks_to_unit(batch.ranks.cpu().numpy(), advisor.problem.r_max)).to(device)
    known = None if values is None else values(batch.vectors)
    budgets = torch.tensor([float(observation.budget_params) for observation in observations], device=device)
    return LossContext(
        batch=DiffusionBatch(
            x0=executed,
            condition=conditions(batch, observations).to(device),
            reward=batch.rewards,
            advantage=contextual_advantage(batch.vectors, batch.rewards, known),
            budget=budgets,
            text=batch.vectors[:, TEXT],
        ),
        chains=None if batch.chains is None else batch.chains[-rollout:],
        observations=observations,
        encode=encode,
        advisor=advisor,
    )
