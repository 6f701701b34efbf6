import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from airlora.observation import IntArray, Observation
from airlora.policy import (
    Advisor,
    AllocateSettings,
    Buffer,
    DiffusionSettings,
    PolicyProblem,
    Transition,
    unit_to_ranks,
)
from airlora.policy.diffusion.losses import DiffusionBatch, LossContext
from airlora.policy.diffusion.losses.expert import BUDGET_MARGIN, ExpertLoss
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.seeding import seeded_init

Observe = Callable[..., Observation]
ContextOf = Callable[..., LossContext]

SETTINGS = DiffusionSettings(
    hidden_size=32,
    time_embedding_size=8,
    num_train_timesteps=50,
    beta_end=0.2,
    num_inference_steps=5,
    num_plans=40,
    condition_dropout=0.0,
)
GAINS = np.asarray([[8, 4, 2, 1], [1, 1, 0, 0], [9, 3, 1, 0], [0, 0, 0, 0]]) / 10
BUDGETS = (40, 60, 120)


class Planner(Advisor):
    """An advisor that remembers what it was asked to plan for."""

    def __init__(self, problem: PolicyProblem) -> None:
        super().__init__(problem, AllocateSettings(num_members=0, forms=["separable"], refit_growth=1.5), seed=0)
        self.asked: list[Observation] = []

    def plan(self, observation: Observation) -> IntArray:
        self.asked.append(observation)
        return super().plan(observation)


@pytest.fixture
def planner(problem: PolicyProblem) -> Planner:
    return Planner(problem)


@pytest.fixture
def measure(observe: Observe, problem: PolicyProblem) -> Callable[[Advisor, int], Buffer]:
    """Measure random patterns, and let the advisor fit."""

    def run(advisor: Advisor, count: int) -> Buffer:
        buffer, generator = Buffer(1000), np.random.default_rng(0)
        for index in range(count):
            observation = observe(budget_params=BUDGETS[index % 3])
            ranks, vector = generator.integers(0, 5, 4), problem.spec.to_vector(observation)
            loss = 3.0 - sum(GAINS[module, :rank].sum() for module, rank in enumerate(ranks))
            buffer.add(Transition(observation, vector, ranks, -loss, vector, False, False, loss))
        advisor.update(buffer, count)
        return buffer

    return run


def shown(observations: Sequence[Observation]) -> Tensor:
    return torch.tensor([[math.log10(observation.budget_params), 0.0] for observation in observations])


def batch(x0: float = 0.0, count: int = 16) -> DiffusionBatch:
    return DiffusionBatch(
        x0=torch.full((count, 4), x0),
        condition=torch.zeros(count, 2),
        reward=torch.zeros(count),
        advantage=torch.linspace(-1.0, 1.0, count),
        budget=torch.ones(count),
        text=torch.zeros(count, 2),
    )


def make(**changes: object) -> ExpertLoss:
    return ExpertLoss(SETTINGS.model_copy(update=changes), 4, 2, seed=0)


def network() -> DiffusionModel:
    with seeded_init(0):
        return DiffusionModel(4, 2, SETTINGS)


def test_plans_anew_when_the_model_was_fitted_anew_and_only_then(
    planner: Planner, measure: Callable[[Advisor, int], Buffer], context_of: ContextOf
) -> None:
    loss = make()
    context = context_of(batch(), observations=measure(planner, 60).observations(), encode=shown, advisor=planner)
    asked = []
    for num_new in (0, 0, 20, 20, 0):  # fitted at 60 measurements and, half as many more being enough, at 100
        if num_new:
            measure(planner, num_new)
        assert loss.prepare(network(), context) == {"num_plans": 40.0}
        asked.append(len(planner.asked))
    assert asked == [40, 40, 40, 80, 80]
    assert planner.num_fitted == 100


def test_half_of_the_plans_are_for_links_met_and_half_for_others_beyond_them(
    planner: Planner, measure: Callable[[Advisor, int], Buffer], context_of: ContextOf
) -> None:
    context = context_of(batch(), observations=measure(planner, 60).observations(), encode=shown, advisor=planner)
    make(num_plans=200).prepare(network(), context)
    budgets = [observation.budget_params for observation in planner.asked]
    assert set(budgets[::2]) == set(BUDGETS)
    others = np.asarray(budgets[1::2])
    assert others.min() < 40 / 1.2
    assert others.max() > 120 * 1.2
    assert others.min() >= int(40 / BUDGET_MARGIN)
    assert others.max() <= 120 * BUDGET_MARGIN
    # Even in the logarithm: as many below the geometric middle as above.
    assert 0.35 < (others < np.sqrt(40 * 120)).mean() < 0.65


def test_keeps_the_planners_plans_beside_what_the_sampler_is_told(
    planner: Planner, measure: Callable[[Advisor, int], Buffer], context_of: ContextOf
) -> None:
    loss = make()
    loss.prepare(
        network(),
        context_of(batch(), observations=measure(planner, 60).observations(), encode=shown, advisor=planner),
    )
    plans = np.stack([Advisor.plan(planner, observation) for observation in list(planner.asked)])
    np.testing.assert_array_equal(unit_to_ranks(loss._x0.numpy(), 4), plans)
    torch.testing.assert_close(loss._conditions, shown(planner.asked))


def test_without_kappa_what_was_executed_does_not_count(
    planner: Planner, measure: Callable[[Advisor, int], Buffer], context_of: ContextOf
) -> None:
    observations, model = measure(planner, 60).observations(), network()
    torch.nn.init.ones_(model.backbone.leave.weight)  # which starts at zero, and sees nothing
    values = []
    for kappa in (0.0, 0.5, 1.0):
        for x0 in (0.0, 0.7):
            loss = make(kappa=kappa)
            loss.prepare(network(), context_of(batch(x0), observations=observations, encode=shown, advisor=planner))
            values.append(loss(model, batch(x0), torch.Generator().manual_seed(0)).item())
    assert values[0] == values[1]
    assert values[2] != values[3]
    # Linear in kappa.
    assert values[4] - values[2] == pytest.approx(values[2] - values[0], rel=1e-4)


@pytest.mark.parametrize("budget", [0, 1])
def test_links_that_carry_next_to_nothing_are_planned_for(
    planner: Planner, measure: Callable[[Advisor, int], Buffer], context_of: ContextOf, observe: Observe, budget: int
) -> None:
    measure(planner, 60)
    loss = make()
    loss.prepare(
        network(),
        context_of(
            batch(),
            observations=[observe(budget_params=budget)],
            encode=lambda observations: torch.zeros(len(observations), 2),
            advisor=planner,
        ),
    )
    assert (unit_to_ranks(loss._x0.numpy(), 4) == 0).all()


def test_imitates_the_planner(
    planner: Planner, measure: Callable[[Advisor, int], Buffer], context_of: ContextOf, observe: Observe
) -> None:
    """Trained by nothing but plans, a sample's ranks are the plan's, and grow with the budget."""
    observations = measure(planner, 90).observations()
    loss, model = make(kappa=0.0, num_plans=120), network()
    loss.prepare(model, context_of(batch(), observations=observations, encode=shown, advisor=planner))
    optimizer, draws = torch.optim.Adam(model.parameters(), lr=3e-3), torch.Generator().manual_seed(0)
    for _ in range(500):
        optimizer.zero_grad()
        loss(model, batch(count=64), draws).backward()
        optimizer.step()
    sizes = []
    for budget in BUDGETS:
        link = observe(budget_params=budget)
        samples = model.sample(shown([link]).expand(32, -1), draws)
        ranks = unit_to_ranks(samples.mean(0).numpy(), 4)
        assert np.abs(ranks - planner.plan(link)).sum() <= 2
        sizes.append(planner.problem.num_params(ranks))
    assert all(one < other for one, other in pairwise(sizes))
