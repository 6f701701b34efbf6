import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from airlora.errors import PolicyError
from airlora.policy import DiffusionSettings
from airlora.policy.diffusion.losses import LOSSES, DiffusionBatch
from airlora.policy.diffusion.losses.advantage_weighted import MAX_WEIGHT, advantage_weights
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.seeding import seeded_init

SMALL = {"hidden_size": 16, "time_embedding_size": 8, "num_train_timesteps": 100, "num_inference_steps": 5}


def batch(advantage: Tensor) -> DiffusionBatch:
    generator = torch.Generator().manual_seed(0)
    size = len(advantage)
    return DiffusionBatch(
        x0=torch.rand(size, 3, generator=generator),
        condition=torch.rand(size, 2, generator=generator),
        reward=torch.rand(size, generator=generator),
        advantage=advantage,
        budget=torch.full((size,), 100.0),
        text=torch.zeros(size, 2),
    )


def loss_and_gradient(name: str, advantage: Tensor, **changes: float) -> tuple[float, Tensor]:
    settings = DiffusionSettings(**SMALL, loss=name, **changes)  # type: ignore[arg-type]
    with seeded_init(0):
        model = DiffusionModel(3, 2, settings)
    loss = LOSSES[name](settings, 3, 2, 0)(model, batch(advantage), torch.Generator().manual_seed(1))
    loss.backward()
    gradients = [parameter.grad.reshape(-1) for parameter in model.parameters() if parameter.grad is not None]
    return loss.item(), torch.cat(gradients)


ADVANTAGE = torch.linspace(-2.0, 2.0, 32)


def test_the_reward_of_the_literal_loss_moves_no_weight() -> None:
    """Erratum 3: kappa changes the loss by a constant and its gradient not at all."""
    without, gradient_without = loss_and_gradient("literal", ADVANTAGE, kappa=0.0)
    with_reward, gradient_with = loss_and_gradient("literal", ADVANTAGE, kappa=10.0)
    assert torch.equal(gradient_with, gradient_without)
    assert without - with_reward == pytest.approx(10.0 * batch(ADVANTAGE).reward.mean().item(), rel=1e-5)
    assert gradient_with.abs().max() > 0


def test_the_advantage_reaches_the_weights_of_the_other() -> None:
    _, one = loss_and_gradient("advantage_weighted", ADVANTAGE)
    _, other = loss_and_gradient("advantage_weighted", ADVANTAGE.flip(0))
    assert not torch.allclose(one, other)


def test_with_equal_advantages_it_imitates() -> None:
    weighted, gradient = loss_and_gradient("advantage_weighted", torch.full((32,), 3.0))
    plain, plain_gradient = loss_and_gradient("literal", ADVANTAGE, kappa=0.0)
    assert weighted == pytest.approx(plain)
    torch.testing.assert_close(gradient, plain_gradient)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=20), st.floats(0.1, 10))
def test_weights_grow_with_the_advantage_and_average_one(advantages: list[float], temperature: float) -> None:
    weights = advantage_weights(torch.tensor(sorted(advantages), dtype=torch.float64), temperature)
    assert (weights.diff() >= 0).all()
    assert weights.mean().item() == pytest.approx(1.0)


def test_no_weight_is_boundless() -> None:
    weights = advantage_weights(torch.tensor([0.0] * 99 + [1000.0]), 1.0)
    assert (weights[-1] / weights[0]).item() == pytest.approx(MAX_WEIGHT)


def test_a_high_temperature_imitates_all_alike() -> None:
    torch.testing.assert_close(advantage_weights(ADVANTAGE, 1e6), torch.ones(32), atol=1e-4, rtol=0)


def test_rows_of_a_batch_stay_together() -> None:
    whole = batch(ADVANTAGE)
    part = whole[torch.tensor([3, 1])]
    assert len(part) == 2
    assert torch.equal(part.x0, whole.x0[[3, 1]])
    assert torch.equal(part.advantage, ADVANTAGE[[3, 1]])


def test_names_what_there_is() -> None:
    with pytest.raises(PolicyError, match="diffusion.loss = 'hope': allowed is one of advantage_weighted"):
        LOSSES["hope"]
