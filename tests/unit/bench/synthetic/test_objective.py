import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airlora.bench.synthetic.landscapes import Interacting, Separable
from airlora.bench.synthetic.objective import SyntheticObjective
from airlora.errors import RankPatternError, SettingsError
from airlora.ranks import params_per_rank
from airlora.text import TextComplexity

KINDS = pytest.mark.parametrize("interacting", [False, True])
D = 64
TEXT = TextComplexity(entropy_nats=2.9, oov_rate=0.4)


def costs_of(objective: SyntheticObjective) -> np.ndarray:
    return np.asarray(params_per_rank(objective.shapes))


def total(objective: SyntheticObjective, ranks: np.ndarray, price: float, text: TextComplexity = TEXT) -> float:
    return objective.loss(ranks, text) + price * float(ranks @ costs_of(objective))


def fill_randomly(objective: SyntheticObjective, budget: int, generator: np.random.Generator) -> np.ndarray:
    costs = costs_of(objective)
    ranks = np.zeros(len(costs), dtype=np.int64)
    for module in generator.permutation(np.repeat(np.arange(len(costs)), objective.r_max)):
        if (ranks @ costs) + costs[module] <= budget:
            ranks[module] += 1
    return ranks


def fill_greedily(objective: SyntheticObjective, budget: int, price: float) -> np.ndarray:
    """Return ranks by the best true gain per number, one component after the other."""
    costs = costs_of(objective)
    ranks = np.zeros(len(costs), dtype=np.int64)
    while True:
        steps = [row for row in ranks + np.eye(len(costs), dtype=np.int64) if row.max() <= objective.r_max]
        steps = [row for row in steps if row @ costs <= budget]
        here = total(objective, ranks, price)
        gains = [(here - total(objective, row, price)) / ((row - ranks) @ costs) for row in steps]
        if not gains or max(gains) <= 0:
            return ranks
        ranks = steps[int(np.argmax(gains))]


def test_components_take_exactly_two_and_five_units() -> None:
    for hidden_size in (8, 63, 64, 100):
        objective = SyntheticObjective(num_layers=2, r_max=4, hidden_size=hidden_size)
        assert (costs_of(objective) == hidden_size * np.array([2, 2, 2, 2, 5, 5] * 2)).all()
        assert objective.max_params == 4 * costs_of(objective).sum()


def test_sizes_of_the_two_scales() -> None:
    assert len(SyntheticObjective(num_layers=6).shapes) == 36
    assert len(SyntheticObjective(num_layers=24).shapes) == 144
    assert list(SyntheticObjective(num_layers=1).shapes)[:2] == ["layers.0.q", "layers.0.k"]


@pytest.mark.parametrize(
    ("interacting", "num_layers", "r_max", "seed"),
    [(False, 1, 2, 0), (False, 1, 3, 1), (True, 1, 2, 0), (True, 1, 3, 1), (False, 2, 1, 2), (True, 2, 1, 2)],
)
def test_the_optimum_is_the_best_of_all_patterns(interacting: bool, num_layers: int, r_max: int, seed: int) -> None:
    objective = SyntheticObjective(num_layers, r_max, interacting, seed=seed)
    costs = costs_of(objective)
    patterns = np.array(list(itertools.product(range(r_max + 1), repeat=len(costs))))
    losses = np.array([objective.loss(ranks, TEXT) for ranks in patterns])
    params = patterns @ costs
    budgets = [0, D, 2 * D, 4 * D + 1, 7 * D, 9 * D, 12 * D - 1, 19 * D, 30 * D, objective.max_params, 10**9]
    for budget, price in itertools.product(budgets, [0.0, 1e-5, 1e-4, 4e-4, 1.0]):
        ranks = objective.optimum(TEXT, budget, price)
        assert ranks @ costs <= budget
        assert total(objective, ranks, price) == pytest.approx((losses + price * params)[params <= budget].min())


@pytest.mark.parametrize("layers_per_group", [1, 2])
def test_the_curve_across_groups_is_the_best_of_all_patterns(layers_per_group: int) -> None:
    generator = np.random.default_rng(5)
    landscape = Interacting(2, 1, generator, layers_per_group)
    factors = generator.lognormal(0.0, 0.3, 6)
    patterns = np.array(list(itertools.product(range(2), repeat=12)))
    worths = np.array([landscape.value(ranks, factors) for ranks in patterns])
    units = patterns @ np.array([2, 2, 2, 2, 5, 5] * 2)
    curve = landscape.curve(factors)
    assert curve.values == pytest.approx([worths[units <= most].max() for most in range(37)])
    found = [landscape.value(curve.ranks_at(most), factors) for most in range(37)]
    assert found == pytest.approx(curve.values)


@KINDS
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 50), share=st.floats(0.0, 1.1), price=st.sampled_from([0.0, 1e-6, 3e-6]))
def test_the_optimum_beats_all_others_within_the_budget(
    interacting: bool, seed: int, share: float, price: float
) -> None:
    objective = SyntheticObjective(num_layers=4, r_max=6, interacting=interacting, seed=seed)
    budget = int(share * objective.max_params)
    optimum = objective.optimum(TEXT, budget, price)
    constant = objective.best_constant(TEXT, budget, price)
    assert optimum @ costs_of(objective) <= budget
    assert constant @ costs_of(objective) <= budget
    assert optimum.min() >= 0
    assert optimum.max() <= 6
    best = total(objective, optimum, price)
    generator = np.random.default_rng(seed)
    others = [constant, *(fill_randomly(objective, budget, generator) for _ in range(5))]
    assert all(total(objective, ranks, price) >= best - 1e-12 for ranks in others)


@KINDS
def test_the_optimum_is_not_worse_than_greedy_filling(interacting: bool) -> None:
    objective = SyntheticObjective(num_layers=2, r_max=4, interacting=interacting, seed=3)
    for share in (0.05, 0.2, 0.5):
        budget = int(share * objective.max_params)
        best = total(objective, objective.optimum(TEXT, budget, 1e-6), 1e-6)
        assert best <= total(objective, fill_greedily(objective, budget, 1e-6), 1e-6) + 1e-12


def test_greedy_filling_is_nearly_right_only_without_interactions() -> None:
    """A pair's first component alone is worth little, so that one step ahead is not far enough."""
    excess = {False: 0.0, True: 0.0}
    for interacting, seed, share in itertools.product(excess, range(3), (0.05, 0.1, 0.2)):
        objective = SyntheticObjective(num_layers=2, r_max=8, interacting=interacting, seed=seed)
        budget = int(share * objective.max_params)
        best = total(objective, objective.optimum(TEXT, budget, 0.0), 0.0)
        excess[interacting] += total(objective, fill_greedily(objective, budget, 0.0), 0.0) - best
    assert excess[True] > 3 * excess[False]


@KINDS
def test_a_larger_budget_is_never_worse(interacting: bool) -> None:
    objective = SyntheticObjective(num_layers=3, r_max=5, interacting=interacting, seed=2)
    budgets = np.linspace(0, objective.max_params, 60).astype(int).tolist()
    for price in (0.0, 2e-6):
        best = [total(objective, objective.optimum(TEXT, budget, price), price) for budget in budgets]
        assert (np.diff(best) <= 1e-12).all()


@KINDS
def test_a_higher_price_never_buys_more(interacting: bool) -> None:
    objective = SyntheticObjective(num_layers=3, r_max=5, interacting=interacting, seed=2)
    prices = [0.0, 1e-6, 1e-5, 1e-4, 1e-3]
    sent = [int(objective.optimum(TEXT, 10**9, p) @ costs_of(objective)) for p in prices]
    assert sent == sorted(sent, reverse=True)
    assert sent[0] == objective.max_params
    assert sent[-1] == 0


def test_the_best_constant_is_the_best_of_all_constants() -> None:
    objective = SyntheticObjective(num_layers=2, r_max=8, seed=1)
    for budget, price in itertools.product([0, 36 * D - 1, 36 * D, 100 * D, 10**9], [0.0, 2e-5]):
        patterns = [np.full(12, rank) for rank in range(9)]
        costs = [total(objective, p, price) for p in patterns if p @ costs_of(objective) <= budget]
        constant = objective.best_constant(TEXT, budget, price)
        assert len(set(constant.tolist())) == 1
        assert total(objective, constant, price) == min(costs)


def test_separable_losses_are_convex_in_each_rank_and_modules_add_up() -> None:
    objective = SyntheticObjective(num_layers=2, r_max=8, seed=4)
    generator = np.random.default_rng(0)
    for module in range(12):
        curves = []
        for base in generator.integers(9, size=(2, 12)):
            rows = np.tile(base, (9, 1))
            rows[:, module] = np.arange(9)
            curves.append(np.diff([objective.loss(ranks, TEXT) for ranks in rows]))
        assert (curves[0] < 0).all()
        assert (np.diff(curves[0]) >= -1e-15).all()
        assert curves[0] == pytest.approx(curves[1])


def test_the_separable_loss_is_its_formula() -> None:
    objective = SyntheticObjective(num_layers=1, r_max=5, seed=7)
    landscape = objective.landscape
    assert isinstance(landscape, Separable)
    neutral = TextComplexity(entropy_nats=2.5, oov_rate=0.25)  # mean text: every factor is 1
    expected = 0.2 + 1.25 * (0.8 - landscape.worths[:, 3].sum())
    assert objective.loss(np.full(6, 3), neutral) == pytest.approx(expected)
    assert landscape.weights.sum() == pytest.approx(0.8)


def test_interacting_losses_fall_in_every_rank_but_not_concavely() -> None:
    objective = SyntheticObjective(num_layers=3, r_max=8, interacting=True, seed=4)
    landscape = objective.landscape
    assert isinstance(landscape, Interacting)
    assert (np.diff(landscape.tables, axis=1) > 0).all()
    assert (np.diff(landscape.tables, axis=2) > 0).all()
    # Along an axis the first component is often worth less than the second.
    steps = np.diff(landscape.tables, axis=1)
    assert (steps[:, 1] > steps[:, 0]).mean() > 0.1
    base = np.full(18, 2)
    for module in range(18):
        more = base.copy()
        more[module] += 1
        assert objective.loss(more, TEXT) < objective.loss(base, TEXT)


def test_one_of_a_pair_is_worth_little_without_the_other() -> None:
    tables = SyntheticObjective(num_layers=6, interacting=True, seed=0).landscape.tables
    alone = np.maximum(tables[:, -1, 0], tables[:, 0, -1])
    assert (alone < 0.4 * tables[:, -1, -1]).all()


def test_layers_of_a_group_replace_each_other_and_groups_add_up() -> None:
    objective = SyntheticObjective(num_layers=4, r_max=8, interacting=True, seed=1)

    def worth(layers: list[int]) -> float:
        ranks = np.zeros(24, dtype=np.int64)
        for layer in layers:
            ranks[6 * layer : 6 * layer + 6] = 8
        return objective.loss(np.zeros(24, dtype=np.int64), TEXT) - objective.loss(ranks, TEXT)

    assert worth([0, 1]) < worth([0]) + worth([1]) - 1e-6
    assert worth([0, 3]) == pytest.approx(worth([0]) + worth([3]))


@KINDS
def test_harder_text_has_more_to_gain_and_texts_differ_in_what_they_need(interacting: bool) -> None:
    objective = SyntheticObjective(interacting=interacting, seed=0)
    budget = objective.max_params // 10
    patterns = {tuple(objective.optimum(text, budget, 0.0).tolist()) for text in objective.texts}
    assert len(patterns) > 1
    none, full = np.zeros(36, np.int64), np.full(36, 16)
    drops = [objective.loss(none, TextComplexity(2.5, rho)) - objective.loss(full, TextComplexity(2.5, rho))
             for rho in (0.1, 0.5)]  # fmt: skip
    assert drops[1] > drops[0] > 0


def test_a_seed_is_a_problem_and_more_texts_leave_it_as_it_is() -> None:
    ranks = np.arange(36) % 17
    first, same, other = (SyntheticObjective(seed=seed, num_texts=n) for seed, n in ((1, 16), (1, 3), (2, 16)))
    assert first.loss(ranks, TEXT) == same.loss(ranks, TEXT)
    assert first.texts[:3] == same.texts
    assert first.loss(ranks, TEXT) != other.loss(ranks, TEXT)


@pytest.mark.parametrize("noise_std", [0.0, 0.015, 0.1])
def test_the_noise_has_the_stated_spread(noise_std: float) -> None:
    objective = SyntheticObjective(num_layers=1, r_max=4, noise_std=noise_std)
    objective.reset(np.random.default_rng(0))
    ranks = np.full(6, 2)
    errors = []
    for _ in range(4000):
        expected = objective.loss(ranks, objective.complexity())
        errors.append(objective.measure(ranks) - expected)
    if noise_std == 0.0:
        assert set(errors) == {0.0}
    assert np.std(errors) == pytest.approx(noise_std * objective.drop_nats, rel=0.05)
    assert abs(np.mean(errors)) <= 4 * noise_std * objective.drop_nats / math.sqrt(4000)


def test_the_drop_is_what_full_ranks_gain() -> None:
    objective = SyntheticObjective(num_layers=2, interacting=True)
    none, full = np.zeros(12, np.int64), np.full(12, 16)
    drops = [objective.loss(none, text) - objective.loss(full, text) for text in objective.texts]
    assert objective.drop_nats == pytest.approx(np.mean(drops))


@KINDS
def test_measure_moves_through_the_texts_and_resumes(interacting: bool) -> None:
    objective = SyntheticObjective(num_layers=1, r_max=4, interacting=interacting)
    objective.reset(np.random.default_rng(1))
    ranks = np.ones(6, np.int64)
    objective.measure(ranks)
    state = objective.state_dict()
    first = [(objective.complexity(), objective.measure(ranks)) for _ in range(50)]
    assert {text for text, _ in first} <= set(objective.texts)
    assert len({text for text, _ in first}) > 5
    other = SyntheticObjective(num_layers=1, r_max=4, interacting=interacting)
    other.load_state_dict(state)
    assert [(other.complexity(), other.measure(ranks)) for _ in range(50)] == first


def test_optima_do_not_depend_on_what_was_asked_before() -> None:
    objective = SyntheticObjective(num_layers=1, r_max=2)
    texts = [TextComplexity(2.0 + 0.01 * i, 0.2) for i in range(70)]  # more than are kept
    first = [objective.optimum(text, 9 * D, 0.0) for text in texts]
    first[0][:] = -1  # the caller owns what it got
    fresh = SyntheticObjective(num_layers=1, r_max=2)
    for text in reversed(texts):
        assert np.array_equal(objective.optimum(text, 9 * D, 0.0), fresh.optimum(text, 9 * D, 0.0))


@KINDS
def test_a_large_problem_is_solved_quickly(interacting: bool) -> None:
    objective = SyntheticObjective(num_layers=24, interacting=interacting)
    start = time.perf_counter()
    objective.optimum(TEXT, objective.max_params // 2, 1e-7)
    assert time.perf_counter() - start < 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layers": 0}, "num_layers = 0: allowed is a whole number, 1 or more"),
        ({"num_texts": 0}, "num_texts = 0: allowed is a whole number, 1 or more"),
        ({"hidden_size": 1}, "hidden_size = 1: allowed is a whole number, 2 or more"),
        ({"noise_std": -0.1}, "noise_std = -0.1: allowed is a number, 0 or more"),
        ({"noise_std": math.nan}, "noise_std = nan: allowed is a number, 0 or more"),
    ],
)
def test_refuses_impossible_settings(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        SyntheticObjective(**arguments)


@pytest.mark.parametrize("r_max", [0, 64])
def test_refuses_ranks_beyond_the_dimension(r_max: int) -> None:
    with pytest.raises(RankPatternError, match=f"r_max = {r_max}: allowed is 1 to 63"):
        SyntheticObjective(r_max=r_max)


@pytest.mark.parametrize("ranks", [np.zeros(5, np.int64), np.full(6, 5), np.full(6, -1), np.zeros(6)])
def test_refuses_ranks_that_do_not_fit(ranks: np.ndarray) -> None:
    objective = SyntheticObjective(num_layers=1, r_max=4)
    with pytest.raises(RankPatternError, match="allowed is 6 whole numbers from 0 to 4"):
        objective.loss(ranks, TEXT)


def test_refuses_impossible_budgets_and_prices() -> None:
    objective = SyntheticObjective(num_layers=1, r_max=4)
    for search in (objective.optimum, objective.best_constant):
        with pytest.raises(SettingsError, match="budget_params = -1: allowed is a whole number, 0 or more"):
            search(TEXT, -1, 0.0)
        for price in (-1.0, math.inf, math.nan):
            with pytest.raises(SettingsError, match=f"price_per_param = {price}: allowed is a number, 0 or more"):
                search(TEXT, 10, price)
