from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from airlora.policy import DiffusionSettings
from airlora.policy.diffusion.losses import DiffusionBatch, LossContext
from airlora.policy.diffusion.losses.critics import Critic, LearnedCritic, UtilityCritic
from airlora.policy.diffusion.losses.q_guided import QGuidedLoss
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.seeding import seeded_init

SETTINGS = DiffusionSettings(
    hidden_size=32,
    time_embedding_size=8,
    num_train_timesteps=50,
    beta_end=0.2,
    num_inference_steps=5,
    prediction_type="v_prediction",
)
UPHILL = torch.tensor([1.0, -1.0, 0.0])


class Slope(Critic):
    """Worth rises along `UPHILL`, whatever the condition; times any factor."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.num_updates = 0

    def update(self, context: LossContext) -> dict[str, float]:
        self.num_updates += 1
        return {"critic_error": 0.5}

    def __call__(self, x0: Tensor, batch: DiffusionBatch) -> Tensor:
        return self.factor * (2.0 + x0 @ UPHILL)

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self.factor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.factor = state["factor"]


def batch(count: int = 64) -> DiffusionBatch:
    draws = torch.Generator().manual_seed(0)
    return DiffusionBatch(
        x0=0.2 * torch.randn(count, 3, generator=draws),
        condition=torch.rand(count, 2, generator=draws),
        reward=torch.zeros(count),
        advantage=torch.zeros(count),
        budget=torch.ones(count),
        text=torch.zeros(count, 2),
    )


def guided(weight: float, factor: float = 1.0) -> QGuidedLoss:
    loss = QGuidedLoss(SETTINGS.model_copy(update={"critic_weight": weight}), 3, 2, seed=0)
    loss._critic = Slope(factor)
    return loss


def trained(loss: QGuidedLoss, steps: int = 150) -> Tensor:
    """Return the mean of the samples after some steps, [3]."""
    with seeded_init(0):
        model = DiffusionModel(3, 2, SETTINGS)
    optimizer, draws = torch.optim.Adam(model.parameters(), lr=3e-3), torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, batch(), draws).backward()
        optimizer.step()
    return model.sample(batch().condition, draws).mean(0)


def test_moves_samples_up_the_critics_gradient_the_further_the_heavier_it_is() -> None:
    none, some, much = (trained(guided(weight)) for weight in (0.0, 0.5, 2.0))
    heights = [float(mean @ UPHILL) for mean in (none, some, much)]
    assert abs(heights[0]) < 0.25
    assert heights[0] + 0.1 < heights[1] < heights[2]
    # The third entry has no slope.
    assert abs(float(much[2] - none[2])) < 0.2


def test_the_scale_of_the_critic_does_not_matter() -> None:
    torch.testing.assert_close(trained(guided(1.0), 20), trained(guided(1.0, factor=1000.0), 20), atol=1e-3, rtol=0)


def test_without_weight_it_imitates() -> None:
    with seeded_init(0):
        model = DiffusionModel(3, 2, SETTINGS)
    whole = batch()
    value = guided(0.0)(model, whole, torch.Generator().manual_seed(1))
    error = model.squared_error(whole.x0, whole.condition, torch.Generator().manual_seed(1)).mean()
    assert torch.equal(value, error)


def test_a_critic_worth_nothing_gives_a_finite_loss() -> None:
    with seeded_init(0):
        model = DiffusionModel(3, 2, SETTINGS)
    assert torch.isfinite(guided(1.0, factor=0.0)(model, batch(), torch.Generator().manual_seed(1)))


def test_the_critic_is_brought_up_to_date_before_a_stage(context_of: Callable[..., LossContext]) -> None:
    loss = guided(1.0)
    with seeded_init(0):
        model = DiffusionModel(3, 2, SETTINGS)
    assert loss.prepare(model, context_of(batch())) == {"critic_error": 0.5}
    assert loss._critic.num_updates == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("critic", "kind", "uses"), [("learned", LearnedCritic, False), ("utility", UtilityCritic, True)]
)
def test_the_settings_choose_the_critic(critic: str, kind: type[Critic], uses: bool) -> None:
    loss = QGuidedLoss(SETTINGS.model_copy(update={"critic": critic}), 3, 2, seed=0)
    assert type(loss._critic) is kind
    assert loss.uses_utility is uses
