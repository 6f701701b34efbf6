import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from airlora.policy.ppo_equations import (
    clipped_objective,
    gae,
    gaussian_entropy,
    gaussian_log_prob,
    gaussian_sample,
    ppo_loss,
)

NEVER = torch.zeros(3, dtype=torch.bool)
REWARDS = torch.tensor([1.0, 2.0, 4.0])
VALUES = torch.tensor([0.5, 0.25, 1.0])
NEXT = torch.tensor([0.25, 1.0, 2.0])
MEAN = torch.tensor([[0.5, -1.0], [0.0, 2.0]])
LOG_STD = torch.tensor([-1.0, 0.3])


def test_the_advantage_by_hand() -> None:
    # deltas: 1 + .5 * .25 - .5, 2 + .5 * 1 - .25, 4 + .5 * 2 - 1; each looks .25 of the next one ahead.
    advantages = gae(REWARDS, VALUES, NEXT, NEVER, NEVER, gamma=0.5, gae_lambda=0.5)
    torch.testing.assert_close(advantages, torch.tensor([0.625 + 0.25 * 3.25, 2.25 + 0.25 * 4.0, 4.0]))


def test_lambda_zero_gives_the_one_step_error() -> None:
    advantages = gae(REWARDS, VALUES, NEXT, NEVER, NEVER, gamma=0.9, gae_lambda=0.0)
    torch.testing.assert_close(advantages, REWARDS + 0.9 * NEXT - VALUES)


def test_gamma_zero_gives_the_reward_minus_the_value() -> None:
    advantages = gae(REWARDS, VALUES, NEXT, NEVER, NEVER, gamma=0.0, gae_lambda=0.95)
    torch.testing.assert_close(advantages, REWARDS - VALUES)


def test_lambda_one_gives_the_monte_carlo_return() -> None:
    # Within one episode the value of the next state is that of the next step, and the sum telescopes.
    next_values = torch.tensor([0.25, 1.0, 2.0])
    advantages = gae(REWARDS, VALUES, next_values, NEVER, NEVER, gamma=0.5, gae_lambda=1.0)
    returns = 1.0 + 0.5 * 2.0 + 0.25 * 4.0 + 0.125 * 2.0
    assert advantages[0].item() == pytest.approx(returns - 0.5)


def test_the_next_value_counts_after_truncation_but_not_after_termination() -> None:
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


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.0, 3.0, 3.0),
        (1.1, 3.0, 3.3),
        (1.5, 3.0, 3.6),
        (0.5, 3.0, 1.5),
        (1.5, -3.0, -4.5),
        (0.5, -3.0, -2.4),
    ],
)
def test_the_objective_by_hand(ratio: float, advantage: float, expected: float) -> None:
    objective = clipped_objective(torch.tensor([ratio]), torch.tensor([advantage]), clip_coef=0.2)
    assert objective.item() == pytest.approx(expected)


@given(st.floats(2**-6, 8, width=32), st.floats(-10, 10, width=32))
def test_the_objective_is_never_above_the_unclipped_one(ratio: float, advantage: float) -> None:
    objective = clipped_objective(torch.tensor(ratio), torch.tensor(advantage), clip_coef=0.2)
    assert objective.item() <= ratio * advantage + 1e-6 + 1e-5 * abs(ratio * advantage)


@pytest.mark.parametrize(("ratio", "advantage"), [(1.3, 1.0), (0.7, -1.0)])
def test_the_objective_has_no_gradient_outside_the_clip_range(ratio: float, advantage: float) -> None:
    moved = torch.tensor([ratio], requires_grad=True)
    clipped_objective(moved, torch.tensor([advantage]), clip_coef=0.2).sum().backward()
    assert moved.grad is not None
    assert moved.grad.item() == 0.0


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_a_step_on_the_loss_raises_the_probability_of_good_actions_and_lowers_that_of_bad_ones(
    advantage: float,
) -> None:
    # Erratum 4: the sign of the paper would do the opposite.
    mean = torch.zeros(3, requires_grad=True)
    log_std = torch.zeros(3)
    action = torch.tensor([[0.5, -0.5, 1.0]])
    before = gaussian_log_prob(action, mean, log_std)
    ratio = (before - before.detach()).exp()
    objective = clipped_objective(ratio, torch.tensor([advantage]), clip_coef=0.2)
    ppo_loss(objective, torch.zeros(1), gaussian_entropy(log_std), vf_coef=0.5, ent_coef=0.0).backward()
    assert mean.grad is not None
    after = gaussian_log_prob(action, mean.detach() - 0.01 * mean.grad, log_std)
    assert (after - before.detach()).sign().item() == (1.0 if advantage > 0 else -1.0)


def test_a_step_on_the_loss_reduces_the_value_error_and_raises_the_entropy() -> None:
    value = torch.tensor([3.0], requires_grad=True)
    log_std = torch.zeros(2, requires_grad=True)
    ppo_loss(torch.zeros(1), value - 1.0, gaussian_entropy(log_std), vf_coef=0.5, ent_coef=0.1).backward()
    assert value.grad is not None
    assert log_std.grad is not None
    assert value.grad.item() == pytest.approx(0.5 * (3.0 - 1.0))
    assert (log_std.grad < 0).all()


def test_the_gaussian_agrees_with_torch() -> None:
    action = torch.tensor([[0.1, 0.2], [-3.0, 1.0]])
    oracle = torch.distributions.Independent(torch.distributions.Normal(MEAN, LOG_STD.exp()), 1)
    torch.testing.assert_close(gaussian_log_prob(action, MEAN, LOG_STD), oracle.log_prob(action))
    torch.testing.assert_close(gaussian_entropy(LOG_STD).expand(2), oracle.entropy())


def test_gaussian_samples_have_the_right_moments_and_repeat_with_the_seed() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = gaussian_sample(MEAN[:1].expand(20_000, 2), LOG_STD, generator)
    torch.testing.assert_close(samples.mean(0), MEAN[0], atol=0.03, rtol=0)
    torch.testing.assert_close(samples.std(0), LOG_STD.exp(), atol=0.03, rtol=0)
    again = gaussian_sample(MEAN[:1].expand(20_000, 2), LOG_STD, torch.Generator().manual_seed(0))
    assert torch.equal(samples, again)
