from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from airlora.errors import PolicyError
from airlora.policy import DiffusionSettings
from airlora.policy.diffusion.losses import DiffusionBatch, LossContext
from airlora.policy.diffusion.losses.policy_gradient import PolicyGradientLoss
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.seeding import seeded_init

ContextOf = Callable[..., LossContext]

SETTINGS = DiffusionSettings(
    hidden_size=16, time_embedding_size=8, num_train_timesteps=50, beta_end=0.2, num_inference_steps=3
)
MODULES, CONDITIONS = 3, 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model() -> DiffusionModel:
    with seeded_init(0), torch.no_grad():
        model = DiffusionModel(MODULES, CONDITIONS, SETTINGS)
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape))
    return model


def batch(advantage: Tensor, seed: int = 0) -> DiffusionBatch:
    draws, count = generator(seed), len(advantage)
    return DiffusionBatch(
        x0=torch.rand(count, MODULES, generator=draws),
        condition=torch.rand(count, CONDITIONS, generator=draws),
        reward=advantage,
        advantage=advantage,
        budget=torch.ones(count),
        text=torch.zeros(count, 2),
    )


def make() -> PolicyGradientLoss:
    return PolicyGradientLoss(SETTINGS, MODULES, CONDITIONS, seed=0)


def gradient_of(model: DiffusionModel) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def test_makes_chains_that_went_well_more_likely(model: DiffusionModel, context_of: ContextOf) -> None:
    whole = batch(torch.tensor([1.0, -1.0] * 4))
    chains = model.sample_chain(whole.condition, generator())
    loss = make()
    loss.prepare(model, context_of(whole, chains=chains))
    before = model.chain_log_prob(chains, whole.condition).sum(-1).detach()
    loss(model, whole[torch.arange(8).repeat(32)], generator()).backward()
    gradient = gradient_of(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad / gradient.norm()
        change = model.chain_log_prob(chains, whole.condition).sum(-1) - before
    assert change[::2].mean() > 0
    assert change[1::2].mean() < 0


def test_the_gradient_is_that_of_reinforce_where_it_starts(model: DiffusionModel, context_of: ContextOf) -> None:
    """At ratio 1 the clipped objective is E[A rho], whose gradient is that of E[A ln p] / D."""
    whole = batch(torch.tensor([1.0, -1.0]))
    chains = model.sample_chain(whole.condition, generator())
    loss = make()
    loss.prepare(model, context_of(whole, chains=chains))
    rows = torch.randint(2, (64,), generator=generator(5))
    value = loss(model, whole[rows], generator(5))
    assert value.item() == pytest.approx(-whole.advantage[rows].mean().item(), abs=1e-5)
    value.backward()
    ours = gradient_of(model)
    model.zero_grad()
    log_prob = model.chain_log_prob(chains[rows], whole.condition[rows])
    (-(whole.advantage[rows][:, None] * log_prob / MODULES).mean()).backward()
    torch.testing.assert_close(ours, gradient_of(model), rtol=1e-3, atol=1e-6)


def test_only_the_newest_rollout_counts(model: DiffusionModel, context_of: ContextOf) -> None:
    whole = batch(torch.linspace(-1.0, 1.0, 40))
    chains = model.sample_chain(whole.condition[-10:], generator())
    other = batch(torch.linspace(5.0, -9.0, 40), seed=9)
    for name in ("condition", "advantage"):
        getattr(other, name)[-10:] = getattr(whole, name)[-10:]
    gradients = []
    for shown in (whole, other):
        loss = make()
        loss.prepare(model, context_of(shown, chains=chains))
        model.zero_grad()
        loss(model, shown[torch.arange(16)], generator()).backward()
        gradients.append(gradient_of(model))
    assert torch.equal(*gradients)
    assert gradients[0].abs().max() > 0


def test_what_has_moved_far_enough_moves_no_further(model: DiffusionModel, context_of: ContextOf) -> None:
    """The clip: beyond 1 + epsilon a good chain has no gradient, beyond 1 - epsilon a bad one."""
    whole = batch(torch.tensor([1.0, -1.0]))
    chains = model.sample_chain(whole.condition, generator())
    loss = make()
    loss.prepare(model, context_of(whole, chains=chains))
    loss._old_log_prob[0] -= 3 * MODULES
    loss._old_log_prob[1] += 3 * MODULES
    loss(model, whole[torch.tensor([0, 1] * 8)], generator()).backward()
    assert not gradient_of(model).any()


def test_equal_rewards_change_nothing(model: DiffusionModel, context_of: ContextOf) -> None:
    sizes = []
    for advantage in (torch.full((7,), 0.7), torch.linspace(-1.0, 1.0, 7)):
        whole, loss = batch(advantage), make()
        loss.prepare(model, context_of(whole, chains=model.sample_chain(whole.condition, generator())))
        model.zero_grad()
        loss(model, whole, generator()).backward()
        sizes.append(gradient_of(model).norm())
    assert sizes[0] < 0.01 * sizes[1]


def test_refuses_a_buffer_without_chains(model: DiffusionModel, context_of: ContextOf) -> None:
    with pytest.raises(PolicyError, match="no denoising chains: it was filled by a policy with another loss"):
        make().prepare(model, context_of(batch(torch.zeros(4))))
