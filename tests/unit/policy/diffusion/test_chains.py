"""The denoising chain as a sequence of actions: draws and their densities."""

import math

import pytest
import torch
from torch.distributions import Normal

from airlora.policy import DiffusionSettings
from airlora.policy.diffusion.guidance import with_presence
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.seeding import seeded_init

SMALL = {"hidden_size": 16, "time_embedding_size": 8, "num_train_timesteps": 100, "beta_end": 0.2}


def make(**changes: object) -> DiffusionModel:
    """Return a small model whose last layer, which starts at zero, has weights too."""
    with seeded_init(0), torch.no_grad():
        model = DiffusionModel(3, 2, DiffusionSettings(**{**SMALL, **changes}))  # type: ignore[arg-type]
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape))
    return model


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


CONDITION = torch.tensor([[0.5, -0.5], [1.0, 0.0], [0.0, 0.3]])


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_the_density_of_each_step_is_that_of_eq_17_with_a_least_noise(eta: float) -> None:
    """Eq. 17 spelled out from the network's raw output, step by step, against torch's own Gaussian."""
    model = make(num_inference_steps=2, eta=eta, clip_sample=False, min_std=0.15)
    chain = torch.randn(3, 3, 3, generator=generator(1))
    told = with_presence(CONDITION, torch.ones(3, dtype=torch.bool))
    alpha_bars = model.schedule.alphas_cumprod.double()
    expected = []
    for index, (now, following) in enumerate([(99, 0), (0, -1)]):
        ab = float(alpha_bars[now])
        ab_next = float(alpha_bars[following]) if following >= 0 else 1.0
        x = chain[:, index]
        noise = model.backbone(x, torch.full((3,), now), told)
        x0 = (x - math.sqrt(1 - ab) * noise) / math.sqrt(ab)
        sigma = eta * math.sqrt((1 - ab_next) / (1 - ab) * (1 - ab / ab_next))
        mean = math.sqrt(ab_next) * x0 + math.sqrt(1 - ab_next - sigma**2) * noise
        expected.append(Normal(mean, max(sigma, 0.15)).log_prob(chain[:, index + 1]).sum(-1))
    torch.testing.assert_close(model.chain_log_prob(chain, CONDITION), torch.stack(expected, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_chain_has_every_state_and_its_last_is_the_sample(sampler: str) -> None:
    model = make(num_inference_steps=5, sampler=sampler)
    chain = model.sample_chain(CONDITION, generator())
    assert chain.shape == (3, 6, 3)
    torch.testing.assert_close(chain[:, 0], torch.randn(3, 3, generator=generator()))
    assert torch.equal(chain, model.sample_chain(CONDITION, generator()))
    assert not torch.equal(chain, model.sample_chain(CONDITION, generator(1)))
    assert model.chain_log_prob(chain, CONDITION).shape == (3, 5)


@pytest.mark.parametrize("min_std", [0.05, 0.2])
def test_at_eta_0_every_step_has_the_least_noise(min_std: float) -> None:
    model = make(num_inference_steps=3, eta=0.0, min_std=min_std)
    condition = torch.zeros(3000, 2)
    chain = model.sample_chain(condition, generator())
    denoise = model.denoiser(condition)
    for index, (now, following) in enumerate(model.sampler.visits(100)):
        x = chain[:, index]
        mean, std = model.sampler.transition(model.schedule, x, *denoise(x, now), now, following)
        assert std == 0.0
        noise = chain[:, index + 1] - mean
        assert noise.std().item() == pytest.approx(min_std, rel=0.03)
        assert noise.mean().abs().item() < 0.03 * min_std + 0.005


def test_noise_beyond_the_least_is_the_samplers_own() -> None:
    quiet, loud = (make(num_inference_steps=4, eta=1.0, min_std=min_std) for min_std in (1e-4, 1e-3))
    one, other = (model.sample_chain(CONDITION, generator()) for model in (quiet, loud))
    # Only the last step, which DDIM makes without noise, differs.
    torch.testing.assert_close(one[:, :-1], other[:, :-1])
    assert not torch.equal(one[:, -1], other[:, -1])


def test_chains_have_the_densities_they_were_drawn_with() -> None:
    """The mean of ln p over draws is the negative entropy of the steps' Gaussians."""
    model = make(num_inference_steps=2, eta=0.0, min_std=0.1)
    condition = torch.zeros(4000, 2)
    log_prob = model.chain_log_prob(model.sample_chain(condition, generator()), condition)
    entropy = 3 * (math.log(0.1) + 0.5 * math.log(2 * math.pi * math.e))
    torch.testing.assert_close(log_prob.mean(0), torch.full((2,), -entropy), atol=0.08, rtol=0)
