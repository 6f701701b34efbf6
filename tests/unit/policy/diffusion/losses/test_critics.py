from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from airlora.policy import Advisor, AllocateSettings, DiffusionSettings, PolicyProblem, UtilityModel, ranks_to_unit
from airlora.policy.diffusion.losses import DiffusionBatch, LossContext
from airlora.policy.diffusion.losses.critics import LearnedCritic, UtilityCritic, utility_drop

ContextOf = Callable[..., LossContext]


def utility(seed: int = 0, num_modules: int = 4, r_max: int = 4) -> UtilityModel:
    """Return a model with concave curves, text and couplings."""
    generator = np.random.default_rng(seed)
    gains = -np.sort(-generator.exponential(0.1, (num_modules, r_max)), axis=1)
    curves = np.concatenate([np.zeros((num_modules, 1)), gains.cumsum(axis=1)], axis=1)
    pairs = np.triu(0.1 * generator.normal(size=(num_modules, num_modules)), 1)
    basis = curves / curves[:, -1:]
    text_curves = 0.05 * generator.normal(size=(2, num_modules, 1)) * basis
    return UtilityModel(curves, text_curves, generator.normal(size=2), basis, pairs + pairs.T)


def batch(
    x0: Tensor, advantage: Tensor | None = None, budget: float = 1e9, text: Tensor | None = None
) -> DiffusionBatch:
    count = len(x0)
    nothing = torch.zeros(count)
    return DiffusionBatch(
        x0=x0,
        condition=torch.zeros(count, 2),
        reward=nothing,
        advantage=nothing if advantage is None else advantage,
        budget=torch.full((count,), budget),
        text=torch.zeros(count, 2) if text is None else text,
    )


def tables(model: UtilityModel) -> dict[str, Tensor]:
    return {name: table.double() for name, table in model.state_dict().items()}


@pytest.mark.parametrize("r_max", [1, 4])
@given(seed=st.integers(0, 1000))
def test_at_whole_ranks_the_drop_is_the_utility_models(seed: int, r_max: int) -> None:
    model, generator = utility(seed, r_max=r_max), np.random.default_rng(seed)
    ranks, texts = generator.integers(0, r_max + 1, (20, 4)), generator.normal(size=(20, 2))
    ours = utility_drop(tables(model), torch.from_numpy(ranks).double(), torch.from_numpy(texts))
    np.testing.assert_allclose(ours.numpy(), model.drop(ranks, texts), rtol=1e-9, atol=1e-12)


@given(seed=st.integers(0, 1000), module=st.integers(0, 3), rank=st.floats(0, 4), part=st.floats(0, 1))
def test_between_them_it_lies_on_the_line_between_neighbours(seed: int, module: int, rank: float, part: float) -> None:
    model, below = utility(seed), min(int(rank), 3)
    ranks = torch.from_numpy(np.random.default_rng(seed).integers(0, 5, (1, 4))).double().repeat(3, 1)
    ranks[:, module] = torch.tensor([below, below + part, below + 1], dtype=torch.float64)
    low, middle, high = utility_drop(tables(model), ranks, torch.zeros(3, 2, dtype=torch.float64)).tolist()
    assert min(low, high) - 1e-12 <= middle <= max(low, high) + 1e-12
    assert middle == pytest.approx(low + part * (high - low), abs=1e-12)


def test_its_gradient_is_the_worth_of_the_next_component() -> None:
    model = utility()
    ranks = torch.full((1, 4), 1.5, dtype=torch.float64, requires_grad=True)
    utility_drop(
        {**tables(model), "coupling": torch.zeros(4, 4).double()}, ranks, torch.from_numpy(model.text_mean)[None]
    ).sum().backward()
    assert ranks.grad is not None
    np.testing.assert_allclose(ranks.grad[0].numpy(), model.curves[:, 2] - model.curves[:, 1], rtol=1e-9)


def critic_of(problem: PolicyProblem, context_of: ContextOf, model: UtilityModel) -> UtilityCritic:
    advisor = Advisor(problem, AllocateSettings(), seed=0)
    advisor.model = model
    critic = UtilityCritic(DiffusionSettings(), 4, 2, seed=0)
    assert critic.update(context_of(batch(torch.zeros(1, 4)), advisor=advisor)) == {}
    return critic


def test_the_utility_critic_is_eq_9_at_whole_ranks(problem: PolicyProblem, context_of: ContextOf) -> None:
    model = utility()
    critic, generator = critic_of(problem, context_of, model), np.random.default_rng(0)
    ranks, texts = generator.integers(0, 5, (30, 4)), generator.normal(size=(30, 2))
    rows = batch(torch.from_numpy(ranks_to_unit(ranks, 4)), budget=400.0, text=torch.from_numpy(texts).float())
    expected = model.drop(ranks, texts) - problem.cost_weight * ranks @ np.asarray(problem.params_per_rank) / 400.0
    np.testing.assert_allclose(critic(rows.x0, rows).numpy(), expected, atol=1e-5)


def test_beyond_the_budget_no_component_is_worth_its_fine(problem: PolicyProblem, context_of: ContextOf) -> None:
    critic = critic_of(problem, context_of, utility())
    for budget, sign in ((1e9, 1.0), (40.0, -1.0)):
        x0 = torch.zeros(1, 4, requires_grad=True)  # rank 2 everywhere: 160 numbers
        critic(x0, batch(x0, budget=budget)).sum().backward()
        assert x0.grad is not None
        assert (sign * x0.grad.sum()).item() > 0
    assert torch.isfinite(critic(torch.zeros(1, 4), batch(torch.zeros(1, 4), budget=0.0))).all()


def test_the_utility_critic_keeps_nothing() -> None:
    critic = UtilityCritic(DiffusionSettings(), 4, 2, seed=0)
    critic.load_state_dict(critic.state_dict())
    assert critic.state_dict() == {}


def learned(**changes: object) -> LearnedCritic:
    settings = DiffusionSettings(hidden_size=32, batch_size=64, critic_learning_rate=3e-3)
    return LearnedCritic(settings.model_copy(update=changes), 4, 2, seed=0)


def sloped(count: int = 256, seed: int = 0) -> DiffusionBatch:
    x0 = 2.0 * torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)) - 1.0
    return batch(x0, advantage=x0[:, 0] - x0[:, 1] ** 2)


def test_the_learned_critic_regresses_the_advantage(context_of: ContextOf) -> None:
    critic = learned(critic_updates=400)
    first = learned(critic_updates=1).update(context_of(sloped()))["critic_error"]
    assert critic.update(context_of(sloped()))["critic_error"] < first
    fresh = sloped(seed=1)
    error = (critic(fresh.x0, fresh) - fresh.advantage).square().mean()
    assert error < 0.1 * fresh.advantage.var()
    x0 = torch.zeros(1, 4, requires_grad=True)
    critic(x0, batch(x0)).sum().backward()
    assert x0.grad is not None
    assert x0.grad[0, 0].item() == pytest.approx(1.0, abs=0.4)


def test_the_smaller_prediction_counts() -> None:
    critic, rows = learned(), sloped()
    first, second = critic._values(rows.x0, rows.condition)
    assert not torch.equal(first, second)
    value = critic(rows.x0, rows)
    assert (value <= first).all()
    assert (value <= second).all()


def test_the_learned_critic_goes_on_bit_equal(context_of: ContextOf) -> None:
    one, other, rows = learned(critic_updates=5), learned(critic_updates=5), sloped()
    one.update(context_of(rows))
    state = one.state_dict()
    other.load_state_dict(state)
    for critic in (one, other):
        critic.update(context_of(rows))
    assert torch.equal(one(rows.x0, rows), other(rows.x0, rows))
    third = learned(critic_updates=5)
    third.load_state_dict(state)  # a snapshot: what was learnt since is not in it
    assert not torch.equal(third(rows.x0, rows), one(rows.x0, rows))
