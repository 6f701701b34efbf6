import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from airlora.policy.gae import gae

NEVER = torch.zeros(3, dtype=torch.bool)
REWARDS = torch.tensor([1.0, 2.0, 4.0])
VALUES = torch.tensor([0.5, 0.25, 1.0])
NEXT = torch.tensor([0.25, 1.0, 2.0])


def test_by_hand() -> None:
    # deltas: 1 + .5 * .25 - .5, 2 + .5 * 1 - .25, 4 + .5 * 2 - 1; each looks .25 of the next one ahead.
    advantages = gae(REWARDS, VALUES, NEXT, NEVER, NEVER, gamma=0.5, gae_lambda=0.5)
    torch.testing.assert_close(advantages, torch.tensor([0.625 + 0.25 * 3.25, 2.25 + 0.25 * 4.0, 4.0]))


def test_lambda_zero_is_the_one_step_error() -> None:
    advantages = gae(REWARDS, VALUES, NEXT, NEVER, NEVER, gamma=0.9, gae_lambda=0.0)
    torch.testing.assert_close(advantages, REWARDS + 0.9 * NEXT - VALUES)


def test_gamma_zero_is_the_reward_less_the_value() -> None:
    advantages = gae(REWARDS, VALUES, NEXT, NEVER, NEVER, gamma=0.0, gae_lambda=0.95)
    torch.testing.assert_close(advantages, REWARDS - VALUES)


def test_lambda_one_is_the_monte_carlo_return() -> None:
    # Within one episode the value of the next state is that of the next step, and the sum telescopes.
    next_values = torch.tensor([0.25, 1.0, 2.0])
    advantages = gae(REWARDS, VALUES, next_values, NEVER, NEVER, gamma=0.5, gae_lambda=1.0)
    returns = 1.0 + 0.5 * 2.0 + 0.25 * 4.0 + 0.125 * 2.0
    assert advantages[0].item() == pytest.approx(returns - 0.5)


def test_nothing_follows_termination_and_something_follows_truncation() -> None:
    ended = torch.tensor([False, True, False])
    terminated = gae(REWARDS, VALUES, NEXT, ended, NEVER, gamma=0.5, gae_lambda=1.0)
    truncated = gae(REWARDS, VALUES, NEXT, NEVER, ended, gamma=0.5, gae_lambda=1.0)
    assert terminated[1].item() == pytest.approx(2.0 - 0.25)
    assert truncated[1].item() == pytest.approx(2.0 + 0.5 * 1.0 - 0.25)


@given(st.floats(-100, 100), st.booleans())
def test_no_credit_crosses_the_end_of_an_episode(reward_after: float, is_terminated: bool) -> None:
    ended = torch.tensor([False, True, False])
    flags = (ended, NEVER) if is_terminated else (NEVER, ended)
    before = gae(REWARDS, VALUES, NEXT, *flags, gamma=0.9, gae_lambda=0.9)
    changed = torch.tensor([1.0, 2.0, reward_after])
    after = gae(changed, VALUES, NEXT, *flags, gamma=0.9, gae_lambda=0.9)
    torch.testing.assert_close(before[:2], after[:2])
