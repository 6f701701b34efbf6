import pytest
import torch

from airlora.policy.diffusion.advantage import contextual_advantage

SNR = torch.tensor([-1.0, 0.0, 1.0]).repeat(200)
GENERATOR = torch.Generator().manual_seed(0)
LUCK = torch.randn(600, generator=GENERATOR)


def states(snr: torch.Tensor) -> torch.Tensor:
    """Return states whose SNR varies, whose other contexts stand still and whose ranks say nothing."""
    still = torch.tensor([0.5, -0.2, -0.8]).expand(len(snr), 3)
    return torch.cat([snr[:, None], still, torch.rand(len(snr), 5, generator=GENERATOR)], dim=1)


def test_a_good_link_is_no_merit() -> None:
    """Rewards differ by 10 between links and by luck within one; the advantage is the luck."""
    advantage = contextual_advantage(states(SNR), 10.0 * SNR + LUCK)
    assert torch.corrcoef(torch.stack([advantage, LUCK]))[0, 1] > 0.99
    for snr in (-1.0, 0.0, 1.0):
        assert abs(advantage[snr == SNR].mean()) < 0.05


def test_a_loud_link_does_not_drown_a_quiet_one() -> None:
    advantage = contextual_advantage(states(SNR), LUCK * torch.where(SNR > 0, 20.0, 1.0))
    spreads = [advantage[snr == SNR].std().item() for snr in (-1.0, 0.0, 1.0)]
    assert max(spreads) / min(spreads) < 2.0


@pytest.mark.parametrize(("scale", "shift"), [(100.0, 0.0), (1.0, 50.0), (1e-3, -7.0)])
def test_units_of_the_reward_do_not_matter(scale: float, shift: float) -> None:
    vectors = states(SNR)
    one, other = contextual_advantage(vectors, LUCK), contextual_advantage(vectors, scale * LUCK + shift)
    torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)


def test_the_critic_is_believed_where_there_is_one() -> None:
    rewards, vectors = 10.0 * SNR + LUCK, states(SNR)
    assert (contextual_advantage(vectors, rewards, rewards - 1.0) > 0).all()
    assert (contextual_advantage(vectors, rewards, rewards + 1.0) < 0).all()


def test_where_all_went_alike_nothing_went_well() -> None:
    values = torch.full((600,), 2.0)
    assert torch.equal(contextual_advantage(states(SNR), values, values), torch.zeros(600))
