import pytest
import torch

from airlora.policy.diffusion.advantage import contextual_advantage

SNR = torch.tensor([-1.0, 0.0, 1.0]).repeat(200)
GENERATOR = torch.Generator().manual_seed(0)
NOISE = torch.randn(600, generator=GENERATOR)


def states(snr: torch.Tensor) -> torch.Tensor:
    """Return states with the given SNR, constant other contexts and random ranks."""
    still = torch.tensor([0.5, -0.2, -0.8]).expand(len(snr), 3)
    return torch.cat([snr[:, None], still, torch.rand(len(snr), 5, generator=GENERATOR)], dim=1)


def test_the_advantage_does_not_depend_on_the_links_mean_reward() -> None:
    # Rewards differ by 10 between links, plus noise within each link; the advantage is the noise.
    advantage = contextual_advantage(states(SNR), 10.0 * SNR + NOISE)
    assert torch.corrcoef(torch.stack([advantage, NOISE]))[0, 1] > 0.99
    for snr in (-1.0, 0.0, 1.0):
        assert abs(advantage[snr == SNR].mean()) < 0.05


def test_advantages_of_all_links_have_a_similar_spread() -> None:
    advantage = contextual_advantage(states(SNR), NOISE * torch.where(SNR > 0, 20.0, 1.0))
    spreads = [advantage[snr == SNR].std().item() for snr in (-1.0, 0.0, 1.0)]
    assert max(spreads) / min(spreads) < 2.0


@pytest.mark.parametrize(("scale", "shift"), [(100.0, 0.0), (1.0, 50.0), (1e-3, -7.0)])
def test_the_advantage_is_invariant_to_scale_and_shift_of_the_reward(scale: float, shift: float) -> None:
    vectors = states(SNR)
    one, other = contextual_advantage(vectors, NOISE), contextual_advantage(vectors, scale * NOISE + shift)
    torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)


def test_the_critics_values_are_the_baseline() -> None:
    rewards, vectors = 10.0 * SNR + NOISE, states(SNR)
    assert (contextual_advantage(vectors, rewards, rewards - 1.0) > 0).all()
    assert (contextual_advantage(vectors, rewards, rewards + 1.0) < 0).all()


def test_rewards_equal_to_the_values_have_advantage_0() -> None:
    values = torch.full((600,), 2.0)
    assert torch.equal(contextual_advantage(states(SNR), values, values), torch.zeros(600))
