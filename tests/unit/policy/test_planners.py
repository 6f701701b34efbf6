"""The policies that no network takes part in: allocate, greedy, constant, random, table."""

from typing import Any

import numpy as np
import pytest

from airlora.errors import PolicyError
from airlora.observation import Observation, ObservationSpec
from airlora.policy import (
    AllocatePolicy,
    AllocateSettings,
    Buffer,
    ConstantPolicy,
    GreedyPolicy,
    PolicyProblem,
    RandomPolicy,
    TablePolicy,
    Transition,
)
from airlora.policy.random import fill_randomly, spread_randomly
from airlora.ranks import RankPattern

COSTS = (10, 10, 30, 30)
PROBLEM = PolicyProblem(("a", "b", "c", "d"), COSTS, ObservationSpec(num_modules=4, r_max=4), cost_weight=0.0)
GAINS = np.asarray([[8, 4, 2, 1], [1, 1, 0, 0], [9, 3, 1, 0], [0, 0, 0, 0]]) / 10


def observe(budget: int, oov_rate: float = 0.2) -> Observation:
    return Observation(5.0, 1e6, 2.0, oov_rate, np.zeros(4, np.int64), budget)


def loss_of(ranks: Any) -> float:
    return 3.0 - sum(GAINS[m, :r].sum() for m, r in enumerate(ranks))


def learn(policy: AllocatePolicy, count: int, budget: int = 120) -> Buffer:
    buffer, spec = Buffer(10_000), policy.problem.spec
    generator = np.random.default_rng(5)
    for _ in range(count):
        observation = observe(budget, oov_rate=float(generator.choice([0.1, 0.4])))
        ranks = policy.explore(observation).ranks
        loss = loss_of(ranks) + observation.oov_rate
        vector = spec.to_vector(observation)
        buffer.add(Transition(observation, vector, ranks, -loss, vector, False, False, loss))
    for _, stage in policy.stages(buffer, count):
        stage()
    return buffer


def test_allocate_finds_the_best_pattern_for_every_budget() -> None:
    policy = AllocatePolicy(PROBLEM, AllocateSettings(), seed=1)
    learn(policy, 200)
    np.testing.assert_allclose(policy.gains[:, 0], GAINS[:, 0], atol=0.1)
    assert policy.decide(observe(10)).tolist() == [1, 0, 0, 0]
    assert policy.decide(observe(50)).tolist() == [2, 0, 1, 0]
    assert np.dot(policy.decide(observe(47)), COSTS) <= 47
    assert (policy.gains[3] < 1e-3).all()


def test_allocate_leaves_out_what_is_not_worth_its_price() -> None:
    dear = PolicyProblem(PROBLEM.module_names, COSTS, PROBLEM.spec, cost_weight=3.0)
    policy = AllocatePolicy(dear, AllocateSettings(), seed=1)
    learn(policy, 200)
    # At a budget of 100 numbers a component of 10 costs .3 nats: of module a, .8 and .4 are worth it; one of c is worth
    # .9, costs .9 and may go either way.
    assert policy.decide(observe(100)).tolist() in ([2, 0, 0, 0], [2, 0, 1, 0])


def test_allocate_before_any_measurement_still_fits() -> None:
    policy = AllocatePolicy(PROBLEM, AllocateSettings(), seed=1)
    ranks = policy.decide(observe(45))
    assert 0 < np.dot(ranks, COSTS) <= 45


def test_allocate_explores_different_patterns_within_the_ranks() -> None:
    policy = AllocatePolicy(PROBLEM, AllocateSettings(), seed=1)
    learn(policy, 50)
    seen = [policy.explore(observe(100)).ranks for _ in range(40)]
    assert all((ranks >= 0).all() and (ranks <= 4).all() for ranks in seen)
    assert len({tuple(ranks) for ranks in seen}) > 10


def test_allocate_goes_on_bit_equal() -> None:
    one = AllocatePolicy(PROBLEM, AllocateSettings(), seed=1)
    learn(one, 60)
    other = AllocatePolicy.from_arguments(PROBLEM, one.arguments)
    other.load_state_dict(one.state_dict())
    for _ in range(5):
        np.testing.assert_array_equal(one.explore(observe(90)).ranks, other.explore(observe(90)).ranks)
    np.testing.assert_array_equal(one.decide(observe(90)), other.decide(observe(90)))


def test_greedy_fills_by_importance_per_number_in_order() -> None:
    policy = GreedyPolicy(PROBLEM, [[1, 1, 1, 1], [0, 0, 0, 0], [30, 6, 0, 0], [0, 9, 0, 0]])
    # Per number: a .1, c 1.0 then .2, d (0 + 9) / 2 / 30 = .15 for the pair.
    assert policy.decide(observe(30)).tolist() == [0, 0, 1, 0]
    assert policy.decide(observe(60)).tolist() == [0, 0, 2, 0]
    assert policy.decide(observe(120)).tolist() == [0, 0, 2, 2]
    assert policy.decide(observe(0)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("importance", [np.ones((4, 3)), -np.ones((4, 4)), np.full((4, 4), np.nan)])
def test_greedy_refuses_what_is_no_importance(importance: np.ndarray) -> None:
    with pytest.raises(PolicyError, match="importance"):
        GreedyPolicy(PROBLEM, importance)


def test_constant() -> None:
    assert ConstantPolicy(PROBLEM, 3).decide(observe(0)).tolist() == [3] * 4
    fitting = ConstantPolicy(PROBLEM, 3, fit_to_budget=True)
    assert [fitting.decide(observe(budget))[0] for budget in (79, 80, 165, 10_000)] == [0, 1, 2, 3]
    with pytest.raises(PolicyError, match="rank = 5: allowed is 0 to r_max = 4"):
        ConstantPolicy(PROBLEM, 5)


def test_random_covers_all_ranks_and_goes_on_bit_equal() -> None:
    policy = RandomPolicy(PROBLEM, seed=3)
    seen = np.asarray([policy.decide(observe(0)) for _ in range(200)])
    assert set(seen.ravel().tolist()) == {0, 1, 2, 3, 4}
    other = RandomPolicy.from_arguments(PROBLEM, policy.arguments)
    other.load_state_dict(policy.state_dict())
    np.testing.assert_array_equal(other.decide(observe(0)), policy.decide(observe(0)))


@pytest.mark.parametrize("budget", [0, 9, 10, 55, 200, 10_000])
def test_random_fill_leaves_no_room_for_another_component(budget: int) -> None:
    ranks = RandomPolicy(PROBLEM, seed=3, fit_to_budget=True).decide(observe(budget))
    left = budget - np.dot(ranks, COSTS)
    assert left >= 0
    assert all(rank == 4 or cost > left for rank, cost in zip(ranks, COSTS, strict=True))


@pytest.mark.parametrize("budget", [0, 9, 10, 55, 200, 10_000])
def test_spreading_gives_modules_what_was_wanted_as_far_as_it_fits(budget: int) -> None:
    generator = np.random.default_rng(0)
    for wanted in generator.integers(0, 5, (20, 4)):
        ranks = spread_randomly(wanted, COSTS, budget, generator)
        left = budget - np.dot(ranks, COSTS)
        assert left >= 0
        assert (ranks <= wanted).all()
        assert all(rank == want or cost > left for rank, want, cost in zip(ranks, wanted, COSTS, strict=True))
        if np.dot(wanted, COSTS) <= budget:
            np.testing.assert_array_equal(ranks, wanted)


def test_spreading_prefers_no_module_and_differs_more_than_filling() -> None:
    generator = np.random.default_rng(0)
    equal = (10, 10, 10, 10)
    spread = np.asarray([spread_randomly(np.full(4, 4), equal, 80, generator) for _ in range(400)])
    filled = np.asarray([fill_randomly(equal, 4, 80, generator) for _ in range(400)])
    np.testing.assert_allclose(spread.mean(axis=0), 2.0, atol=0.35)
    assert spread.std() > 1.5 * filled.std()


def test_spreading_goes_on_with_its_generator() -> None:
    one, other = (np.random.default_rng(7) for _ in range(2))
    draws = [spread_randomly(np.full(4, 3), COSTS, 100, one) for _ in range(10)]
    for ranks in draws:
        np.testing.assert_array_equal(spread_randomly(np.full(4, 3), COSTS, 100, other), ranks)
    assert len({tuple(ranks) for ranks in draws}) > 1


def test_table_takes_the_largest_pattern_that_fits() -> None:
    patterns = [RankPattern.from_ranks("abcd", ranks) for ranks in ([1, 0, 0, 0], [0, 0, 2, 0], [4, 4, 4, 4])]
    policy = TablePolicy(PROBLEM, patterns)
    assert policy.decide(observe(9)).tolist() == [0, 0, 0, 0]
    assert policy.decide(observe(59)).tolist() == [1, 0, 0, 0]
    assert policy.decide(observe(60)).tolist() == [0, 0, 2, 0]
    again = TablePolicy.from_arguments(PROBLEM, policy.arguments)
    assert again.decide(observe(10_000)).tolist() == [4, 4, 4, 4]


def test_table_refuses_other_modules_and_ranks() -> None:
    with pytest.raises(PolicyError, match="one pattern or more"):
        TablePolicy(PROBLEM, [])
    with pytest.raises(PolicyError, match="other modules"):
        TablePolicy(PROBLEM, [RankPattern({"x": 1})])
    with pytest.raises(PolicyError, match="0 to r_max = 4"):
        TablePolicy(PROBLEM, [RankPattern.from_ranks("abcd", [5, 0, 0, 0])])
