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


@pytest.fixture(scope="module")
def warm() -> FinePolicy:
    """Return a policy after a long warm-up, which tests copy."""
    fine = make(400, SETTINGS.model_copy(update={"learning_rate": 1e-3}))
    fine.decide(torch.zeros(3))
    return fine


def copy_of(warm: FinePolicy, **changes: object) -> FinePolicy:
    fine = make(settings=warm.settings.model_copy(update=changes))
    fine.load_state_dict(warm.state_dict())
    return fine


def batch(value: float = 0.5) -> DiffusionBatch:
    zeros = torch.zeros(40)
    x0, condition, text = torch.full((40, 3), value), torch.zeros(40, 3), torch.zeros(40, 2)
    return DiffusionBatch(x0, condition, zeros, zeros, budget=torch.ones(40), text=text)


def draw(fine: FinePolicy, condition: Tensor) -> Tensor:
    """Return an exploration sample of a loss without chains."""
    x0, chain = fine.explore(condition)
    assert chain is None
    return x0


def test_the_warm_up_imitates_its_data(warm: FinePolicy) -> None:
    for values in ([0.5, -0.5, 0.0], [-0.9, 0.9, 0.3]):
        torch.testing.assert_close(warm.decide(torch.tensor(values)), torch.tensor(values), atol=0.15, rtol=0)


def test_decisions_are_deterministic_and_exploration_is_not() -> None:
    fine, condition = make(), torch.zeros(3)
    assert torch.equal(fine.decide(condition), fine.decide(condition))
    one, other = draw(fine, condition), draw(fine, condition)
    assert not torch.equal(one, other)
    assert max(one.abs().max(), other.abs().max()) <= 1.0


def test_decisions_do_not_change_the_generator() -> None:
    one, other = make(), make()
    one.decide(torch.zeros(3))
    for _ in range(3):
        other.decide(torch.ones(3))
    assert torch.equal(draw(one, torch.zeros(3)), draw(other, torch.zeros(3)))


def test_exploration_noise_scales_with_the_setting(warm: FinePolicy) -> None:
    zero, one, two = (draw(copy_of(warm, exploration=exploration), torch.zeros(3)) for exploration in (0.0, 0.01, 0.02))
    assert zero.abs().max() < 0.9
    assert (one - zero).abs().max() > 0.001
    torch.testing.assert_close(two - zero, 2 * (one - zero), atol=1e-6, rtol=1e-4)


def test_update_learns_executed_decisions(context_of: ContextOf) -> None:
    fine = make(settings=SETTINGS.model_copy(update={"updates_per_stage": 300, "learning_rate": 3e-3}))
    before = (fine.decide(torch.zeros(3)) - 0.5).abs().max()
    metrics = fine.update(context_of(batch(0.5)), rehearse=False)
    assert (fine.decide(torch.zeros(3)) - 0.5).abs().max() < min(0.15, before)
    assert set(metrics) == {"loss", "advantage"}


def test_rehearsal_preserves_the_warm_up(warm: FinePolicy, context_of: ContextOf) -> None:
    # The update has decisions for one condition only; the other conditions are known from the warm-up.
    conditions = torch.tensor([[0.8, -0.8, 0.0], [-0.7, 0.2, 0.7]])
    errors = []
    for rehearse in (False, True):
        fine = copy_of(warm, updates_per_stage=300)
        fine.update(context_of(batch(0.5)), rehearse=rehearse)
        errors.append(max((fine.decide(condition) - condition).abs().mean().item() for condition in conditions))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("is_used", [False, True])
def test_a_restored_policy_continues_bit_identically(is_used: bool, context_of: ContextOf) -> None:
    one = make()
    if is_used:
        one.update(context_of(batch()), rehearse=False)
    other = make()
    other.load_state_dict(one.state_dict())
    for fine in (one, other):
        fine.update(context_of(batch(-0.5)), rehearse=True)
    assert torch.equal(draw(one, torch.zeros(3)), draw(other, torch.zeros(3)))
    assert torch.equal(one.decide(torch.zeros(3)), other.decide(torch.zeros(3)))


def test_the_seed_determines_samples() -> None:
    assert torch.equal(draw(make(seed=1), torch.zeros(3)), draw(make(seed=1), torch.zeros(3)))
    assert not torch.equal(draw(make(seed=1), torch.zeros(3)), draw(make(seed=2), torch.zeros(3)))


def test_a_loss_that_is_not_finite_raises_an_error_and_changes_no_weight(context_of: ContextOf) -> None:
    fine = make()
    before = {name: value.clone() for name, value in fine.model.state_dict().items()}
    fine.decide(torch.zeros(3))
    warm = {name: value.clone() for name, value in fine.model.state_dict().items()}
    with pytest.raises(TrainingError, match="loss of the diffusion stage = nan"):
        fine.update(context_of(batch(float("nan"))), rehearse=False)
    assert all(torch.equal(value, warm[name]) for name, value in fine.model.state_dict().items())
    assert not all(torch.equal(value, before[name]) for name, value in warm.items())


def visited_timesteps(fine: FinePolicy, context: LossContext, *, rehearse: bool = False) -> list[list[int]]:
    """Return the diffusion steps of every training call of the network in an update."""
    fine.decide(torch.zeros(3))
    found: list[list[int]] = []
    handle = fine.model.backbone.register_forward_pre_hook(lambda module, inputs: found.append(inputs[1].tolist()))
    fine.update(context, rehearse=rehearse)
    handle.remove()
    return found


@pytest.mark.parametrize(
    ("updates", "expected"), [(100, list(range(100))), (4, [0, 33, 66, 99]), (102, [*range(100), 0, 1]), (1, [49])]
)
@pytest.mark.parametrize("loss", ["literal", "advantage_weighted", "q_guided"])
def test_a_sweep_noises_the_whole_batch_at_one_step_after_the_other(
    updates: int, expected: list[int], loss: str, context_of: ContextOf
) -> None:
    fine = make(2, SETTINGS.model_copy(update={"timestep_order": "sweep", "updates_per_stage": updates, "loss": loss}))
    assert visited_timesteps(fine, context_of(batch())) == [[step] * 16 for step in expected]


def test_a_sweep_leaves_rehearsal_at_random_steps(context_of: ContextOf) -> None:
    fine = make(2, SETTINGS.model_copy(update={"timestep_order": "sweep"}))
    calls = visited_timesteps(fine, context_of(batch()), rehearse=True)
    assert calls[0::2] == [[0] * 16, [50] * 16, [99] * 16]
    assert all(len(set(call)) > 1 for call in calls[1::2])


def test_the_default_draws_a_step_for_every_sample(context_of: ContextOf) -> None:
    assert all(len(set(call)) > 1 for call in visited_timesteps(make(2), context_of(batch())))
