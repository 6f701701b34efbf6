import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from airlora.errors import PolicyError
from airlora.policy import concave_envelope, fill_exactly, fill_greedily, fit_to_budget

Fill = Callable[..., np.ndarray]
VALUES = arrays(np.float64, (3, 3), elements=st.floats(0, 10, width=32))


def worth(gains: np.ndarray, ranks: object) -> float:
    return float(sum(gains[module, :rank].sum() for module, rank in enumerate(ranks)))  # type: ignore[call-overload]


def best(gains: np.ndarray, costs: list[int], budget: int) -> float:
    patterns = itertools.product(range(gains.shape[1] + 1), repeat=len(costs))
    return max(worth(gains, ranks) for ranks in patterns if np.dot(ranks, costs) <= budget)


@given(VALUES, st.integers(0, 12))
def test_filling_is_exact_for_modules_of_one_size(values: np.ndarray, num_components: int) -> None:
    gains = -np.sort(-values, axis=1)
    ranks = fill_greedily(gains, [7, 7, 7], 7 * num_components)
    assert worth(gains, ranks) == pytest.approx(best(gains, [7, 7, 7], 7 * num_components))


@given(VALUES, st.lists(st.integers(1, 9), min_size=3, max_size=3), st.integers(0, 60))
def test_filling_fits_and_misses_less_than_the_gain_of_one_component(
    values: np.ndarray, costs: list[int], budget: int
) -> None:
    gains = -np.sort(-values, axis=1)
    ranks = fill_greedily(gains, costs, budget)
    assert np.dot(ranks, costs) <= budget
    assert worth(gains, ranks) >= best(gains, costs, budget) - gains.max() - 1e-9


@given(VALUES, st.integers(0, 60))
def test_a_larger_budget_never_gains_less_for_modules_of_one_size(values: np.ndarray, budget: int) -> None:
    gains = -np.sort(-values, axis=1)
    small, large = (worth(gains, fill_greedily(gains, [5, 5, 5], b)) for b in (budget, budget + 5))
    assert large >= small


def test_components_below_the_least_gain_are_left_out() -> None:
    gains = np.asarray([[4.0, 1.0], [2.0, 0.0]])
    assert fill_greedily(gains, [1, 1], 99).tolist() == [2, 1]
    assert fill_greedily(gains, [1, 1], 99, min_gain_per_param=1.0).tolist() == [1, 1]
    assert fill_greedily(gains, [1, 1], 99, min_gain_per_param=5.0).tolist() == [0, 0]


def test_a_component_that_does_not_fit_is_skipped() -> None:
    assert fill_greedily(np.asarray([[9.0, 8.0], [1.0, 0.5]]), [10, 2], 13).tolist() == [1, 1]


@given(VALUES)
def test_the_envelope_falls_keeps_the_sum_and_is_idempotent(values: np.ndarray) -> None:
    pooled = concave_envelope(values)
    assert (np.diff(pooled, axis=1) <= 1e-9).all()
    np.testing.assert_allclose(pooled.sum(axis=1), values.sum(axis=1), atol=1e-9)
    np.testing.assert_allclose(concave_envelope(pooled), pooled, atol=1e-9)


def best_by_table(gains: np.ndarray, costs: list[int], budget: int, price: float = 0.0) -> float:
    """Return the largest net gain within a budget by dynamic programming over the modules."""
    value = np.zeros(budget + 1)
    for row, cost in zip(gains, costs, strict=True):
        worths = np.concatenate([[0.0], np.cumsum(row - price * cost)])
        value = np.asarray(
            [
                max(value[left - r * cost] + w for r, w in enumerate(worths) if r * cost <= left)
                for left in range(budget + 1)
            ]
        )
    return float(value[budget])


COSTS = st.lists(st.integers(1, 9), min_size=3, max_size=3)
PRICES = st.sampled_from([0.0, 0.01, 0.5, 2.0])


@given(VALUES, COSTS, st.integers(0, 90), PRICES)
def test_exact_filling_equals_exhaustive_search(
    values: np.ndarray, costs: list[int], budget: int, price: float
) -> None:
    gains = -np.sort(-values, axis=1)
    ranks = fill_exactly(gains, costs, budget, min_gain_per_param=price)
    assert np.dot(ranks, costs) <= budget
    assert (ranks >= 0).all()
    assert (ranks <= 3).all()
    dear = gains - price * np.asarray(costs)[:, None]
    assert worth(dear, ranks) == pytest.approx(best(dear, costs, budget), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("r_max", [1, 5])
def test_exact_filling_equals_a_dynamic_program(seed: int, r_max: int) -> None:
    generator = np.random.default_rng(seed)
    gains = -np.sort(-generator.exponential(1.0, (12, r_max)), axis=1)
    costs = generator.integers(3, 40, 12).tolist()
    budget, price = int(generator.integers(0, 12 * r_max * 20)), float(generator.choice([0.0, 0.03]))
    exact = fill_exactly(gains, costs, budget, min_gain_per_param=price)
    greedy = fill_greedily(gains, costs, budget, min_gain_per_param=price)
    dear = gains - price * np.asarray(costs)[:, None]
    assert worth(dear, exact) == pytest.approx(best_by_table(gains, costs, budget, price), rel=1e-5)
    assert worth(dear, greedy) <= worth(dear, exact) + 1e-5
    assert worth(dear, greedy) >= worth(dear, exact) - gains.max() - 1e-5


@given(VALUES, COSTS, st.integers(0, 60))
def test_greedy_filling_is_never_better_than_exact_and_within_a_component(
    values: np.ndarray, costs: list[int], budget: int
) -> None:
    gains = -np.sort(-values, axis=1)
    greedy, exact = (worth(gains, fill(gains, costs, budget)) for fill in (fill_greedily, fill_exactly))
    assert greedy <= exact * (1 + 1e-5) + 1e-6
    assert greedy >= exact - gains.max() - 1e-6


@pytest.mark.parametrize("fill", [fill_greedily, fill_exactly])
def test_nothing_is_taken_below_the_smallest_size_or_the_least_gain(fill: Fill) -> None:
    gains = np.asarray([[4.0, 1.0], [2.0, 0.0]])
    assert fill(gains, [3, 5], 0).tolist() == [0, 0]
    assert fill(gains, [3, 5], 2).tolist() == [0, 0]
    assert fill(gains, [3, 5], 3).tolist() == [1, 0]
    assert fill(np.zeros((2, 2)), [3, 5], 99).tolist() == [0, 0]
    assert fill(gains, [1, 1], 99, min_gain_per_param=4.0).tolist() == [0, 0]
    assert fill(gains, [1, 1], 99, min_gain_per_param=1.0).tolist() == [1, 1]
    assert fill(gains, [1, 1], 99).tolist() == [2, 1]


@given(VALUES, COSTS, st.integers(0, 90), st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_fitting_changes_only_patterns_that_exceed_the_budget(
    values: np.ndarray, costs: list[int], budget: int, wanted: list[int]
) -> None:
    gains, ranks = -np.sort(-values, axis=1), np.asarray(wanted)
    kept = fit_to_budget(ranks, gains, costs, budget)
    left = budget - np.dot(kept, costs)
    assert left >= 0
    assert (kept <= ranks).all()
    if np.dot(ranks, costs) <= budget:
        np.testing.assert_array_equal(kept, ranks)
    # Maximal: no component that was wanted and dropped would still fit.
    assert all(cost > left for cost, some, all_ in zip(costs, kept, ranks, strict=True) if some < all_)
    np.testing.assert_array_equal(fit_to_budget(kept, gains, costs, budget), kept)
    np.testing.assert_array_equal(ranks, wanted)


@given(VALUES, st.integers(0, 9), st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_fitting_drops_the_lowest_gains_for_modules_of_one_size(
    values: np.ndarray, num_components: int, wanted: list[int]
) -> None:
    gains, ranks = -np.sort(-values, axis=1), np.asarray(wanted)
    kept = fit_to_budget(ranks, gains, [7, 7, 7], 7 * num_components)
    among = np.where(np.arange(3) < ranks[:, None], gains, 0.0)
    assert kept.sum() == min(num_components, ranks.sum())
    assert worth(gains, kept) == pytest.approx(best(among, [7, 7, 7], 7 * num_components))


@given(VALUES, COSTS, st.integers(0, 90), st.lists(st.integers(0, 3), min_size=3, max_size=3), PRICES)
def test_fitting_with_filling_never_lowers_a_rank_and_leaves_no_room(
    values: np.ndarray, costs: list[int], budget: int, wanted: list[int], price: float
) -> None:
    gains, ranks = -np.sort(-values, axis=1), np.asarray(wanted)
    kept = fit_to_budget(ranks, gains, costs, budget)
    filled = fit_to_budget(ranks, gains, costs, budget, min_gain_per_param=price)
    left = budget - np.dot(filled, costs)
    assert left >= 0
    assert (filled >= kept).all()
    assert (filled <= 3).all()
    for row, cost, rank in zip(gains, costs, filled, strict=True):
        assert rank == 3 or cost > left or row[rank] / cost <= price


def test_fitting_drops_by_gain_per_parameter() -> None:
    gains = np.asarray([[4.0, 3.0], [9.0, 8.0]])
    assert fit_to_budget(np.asarray([2, 2]), gains, [10, 30], 50).tolist() == [2, 1]
    assert fit_to_budget(np.asarray([0, 2]), gains, [10, 30], 50).tolist() == [0, 1]
    assert fit_to_budget(np.asarray([0, 2]), gains, [10, 30], 50, min_gain_per_param=0.0).tolist() == [2, 1]
    # Wanted components are kept while they fit even if they are worth nothing by the model.
    assert fit_to_budget(np.asarray([2, 2]), np.zeros((2, 2)), [10, 30], 80).tolist() == [2, 2]
    assert fit_to_budget(np.asarray([2, 2]), np.zeros((2, 2)), [10, 30], 70).sum() == 3


@pytest.mark.parametrize(
    ("gains", "message"),
    [
        (np.asarray([[1.0, 2.0]]), "do not rise"),
        (np.asarray([[np.nan, 0.0]]), "finite"),
        (np.ones((2, 2)), "shape of gains"),
        (np.ones(3), "shape of gains"),
    ],
)
def test_gains_that_rise_or_are_not_finite_are_refused(gains: np.ndarray, message: str) -> None:
    for fill in (fill_greedily, fill_exactly, partial(fit_to_budget, np.ones(1, np.int64))):
        with pytest.raises(PolicyError, match=message):
            fill(gains, [3], 5)
