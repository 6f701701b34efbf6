from collections.abc import Callable

import pytest
import torch

from airlora.policy import Advisor, Buffer, DiffusionPolicy, DiffusionSettings, Learner, PolicyProblem, ranks_to_unit
from airlora.policy.diffusion.learning import loss_context
from airlora.policy.diffusion.losses import LossContext

Explored = Callable[[Learner, int], Buffer]

SETTINGS = DiffusionSettings(
    hidden_size=16,
    num_train_timesteps=50,
    beta_end=0.2,
    num_inference_steps=3,
    warmup_updates=2,
    loss="policy_gradient",
)


@pytest.fixture
def buffer(problem: PolicyProblem, explored: Explored) -> Buffer:
    return explored(DiffusionPolicy(problem, SETTINGS, seed=0), 40)


def context(buffer: Buffer, problem: PolicyProblem, rollout: int, buffer_size: int) -> LossContext:
    return loss_context(
        buffer,
        rollout,
        buffer_size=buffer_size,
        advisor=Advisor.for_projection(problem, seed=0),
        conditions=lambda batch, observations: batch.vectors,
        encode=lambda observations: torch.zeros(len(observations), 8),
    )


@pytest.mark.parametrize(("rollout", "buffer_size", "size"), [(8, 20, 20), (20, 8, 20), (8, 99, 40)])
def test_shows_the_newest_decisions_and_the_chains_of_the_rollout(
    problem: PolicyProblem, buffer: Buffer, rollout: int, buffer_size: int, size: int
) -> None:
    shown, newest = context(buffer, problem, rollout, buffer_size), buffer.newest(size)
    assert len(shown.batch) == len(shown.observations) == size
    assert shown.observations[-1] == buffer[39].observation
    assert torch.equal(shown.batch.x0, torch.from_numpy(ranks_to_unit(newest.ranks.numpy(), 4)))
    assert torch.equal(shown.batch.condition, newest.vectors)
    assert torch.equal(shown.batch.budget, torch.full((size,), 100.0))
    assert torch.equal(shown.batch.text, newest.vectors[:, 2:4])
    assert newest.chains is not None
    assert shown.chains is not None
    assert torch.equal(shown.chains, newest.chains[-rollout:])
    # A chain belongs to the decision in its row: it ends where the ranks were read off.
    last = shown.chains[:, -1].clamp(-1.0, 1.0)
    assert (last - shown.batch.x0[-rollout:]).abs().max() <= 1 / 5 + 1e-6
