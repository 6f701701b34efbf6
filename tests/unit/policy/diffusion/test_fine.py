from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from airlora.errors import TrainingError
from airlora.policy import DiffusionSettings
from airlora.policy.diffusion.fine import FinePolicy
from airlora.policy.diffusion.losses import DiffusionBatch, LossContext

ContextOf = Callable[..., LossContext]

SETTINGS = DiffusionSettings(
    hidden_size=32, num_train_timesteps=100, beta_end=0.2, num_inference_steps=5, updates_per_stage=3, batch_size=16
)


def identity(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    condition = 2.0 * torch.rand(count, 3, generator=generator) - 1.0
    return condition, condition


def make(warmup_updates: int = 20, settings: DiffusionSettings = SETTINGS, seed: int = 0) -> FinePolicy:
    settings = settings.model_copy(update={"warmup_updates": warmup_updates})
    return FinePolicy(3, 3, identity, settings=settings, seed=seed)


def batch(value: float = 0.5) -> DiffusionBatch:
    nothing = torch.zeros(40)
    x0, condition, text = torch.full((40, 3), value), torch.zeros(40, 3), torch.zeros(40, 2)
    return DiffusionBatch(x0, condition, nothing, nothing, budget=torch.ones(40), text=text)


def draw(fine: FinePolicy, condition: Tensor) -> Tensor:
    """Return a sample drawn while exploring, of a loss that needs no chain."""
    x0, chain = fine.explore(condition)
    assert chain is None
    return x0


def test_starts_as_what_it_is_shown() -> None:
    fine = make(warmup_updates=400)
    for values in ([0.5, -0.5, 0.0], [-0.9, 0.9, 0.3]):
        torch.testing.assert_close(fine.decide(torch.tensor(values)), torch.tensor(values), atol=0.15, rtol=0)


def test_a_decision_is_a_function_and_exploring_is_not() -> None:
    fine, condition = make(), torch.zeros(3)
    assert torch.equal(fine.decide(condition), fine.decide(condition))
    one, other = draw(fine, condition), draw(fine, condition)
    assert not torch.equal(one, other)
    assert max(one.abs().max(), other.abs().max()) <= 1.0


def test_deciding_leaves_no_mark() -> None:
    quiet, asked = make(), make()
    quiet.decide(torch.zeros(3))
    for _ in range(3):
        asked.decide(torch.ones(3))
    assert torch.equal(draw(quiet, torch.zeros(3)), draw(asked, torch.zeros(3)))


def test_exploration_is_added_in_proportion() -> None:
    zero, one, two = (
        draw(make(200, SETTINGS.model_copy(update={"exploration": exploration})), torch.zeros(3))
        for exploration in (0.0, 0.01, 0.02)
    )
    assert zero.abs().max() < 0.9
    assert (one - zero).abs().max() > 0.001
    torch.testing.assert_close(two - zero, 2 * (one - zero), atol=1e-6, rtol=1e-4)


def test_learns_what_was_executed(context_of: ContextOf) -> None:
    fine = make(settings=SETTINGS.model_copy(update={"updates_per_stage": 300, "learning_rate": 3e-3}))
    before = (fine.decide(torch.zeros(3)) - 0.5).abs().max()
    metrics = fine.update(context_of(batch(0.5)), rehearse=False)
    assert (fine.decide(torch.zeros(3)) - 0.5).abs().max() < min(0.15, before)
    assert set(metrics) == {"loss", "advantage"}


def test_rehearsing_keeps_what_it_started_from(context_of: ContextOf) -> None:
    """Taught .5 for the condition 0, it forgets other conditions, unless it rehearses them."""
    conditions = torch.tensor([[0.8, -0.8, 0.0], [-0.7, 0.2, 0.7]])
    errors = []
    for rehearse in (False, True):
        fine = make(400, SETTINGS.model_copy(update={"updates_per_stage": 300, "learning_rate": 1e-3}))
        fine.update(context_of(batch(0.5)), rehearse=rehearse)
        errors.append(max((fine.decide(condition) - condition).abs().mean().item() for condition in conditions))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("is_used", [False, True])
def test_goes_on_bit_equal(is_used: bool, context_of: ContextOf) -> None:
    one = make()
    if is_used:
        one.update(context_of(batch()), rehearse=False)
    other = make()
    other.load_state_dict(one.state_dict())
    for fine in (one, other):
        fine.update(context_of(batch(-0.5)), rehearse=True)
    assert torch.equal(draw(one, torch.zeros(3)), draw(other, torch.zeros(3)))
    assert torch.equal(one.decide(torch.zeros(3)), other.decide(torch.zeros(3)))


def test_the_seed_decides() -> None:
    assert torch.equal(draw(make(seed=1), torch.zeros(3)), draw(make(seed=1), torch.zeros(3)))
    assert not torch.equal(draw(make(seed=1), torch.zeros(3)), draw(make(seed=2), torch.zeros(3)))


def test_a_loss_that_is_not_finite_ends_training(context_of: ContextOf) -> None:
    fine = make()
    before = {name: value.clone() for name, value in fine.model.state_dict().items()}
    fine.decide(torch.zeros(3))
    warm = {name: value.clone() for name, value in fine.model.state_dict().items()}
    with pytest.raises(TrainingError, match="loss of the diffusion stage = nan"):
        fine.update(context_of(batch(float("nan"))), rehearse=False)
    assert all(torch.equal(value, warm[name]) for name, value in fine.model.state_dict().items())
    assert not all(torch.equal(value, before[name]) for name, value in warm.items())
