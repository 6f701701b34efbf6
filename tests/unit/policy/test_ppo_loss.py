import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from airlora.policy.gaussian import gaussian_entropy, gaussian_log_prob
from airlora.policy.ppo_loss import clipped_objective, ppo_loss


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
def test_the_gradient_ends_where_the_ratio_has_moved_far_enough(ratio: float, advantage: float) -> None:
    moved = torch.tensor([ratio], requires_grad=True)
    clipped_objective(moved, torch.tensor([advantage]), clip_coef=0.2).sum().backward()
    assert moved.grad is not None
    assert moved.grad.item() == 0.0


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_a_step_on_the_loss_raises_what_was_good_and_lowers_what_was_bad(advantage: float) -> None:
    """Erratum 4: with the paper's sign it would be the other way round."""
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


def test_a_step_on_the_loss_brings_the_value_nearer_and_spreads_the_policy() -> None:
    value = torch.tensor([3.0], requires_grad=True)
    log_std = torch.zeros(2, requires_grad=True)
    ppo_loss(torch.zeros(1), value - 1.0, gaussian_entropy(log_std), vf_coef=0.5, ent_coef=0.1).backward()
    assert value.grad is not None
    assert log_std.grad is not None
    assert value.grad.item() == pytest.approx(0.5 * (3.0 - 1.0))
    assert (log_std.grad < 0).all()
