import itertools
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from airlora.allocation import concave_envelope, fill_exactly, fill_greedily, fit_to_budget, project_ranks
from airlora.errors import ChannelError, PolicyError, RankPatternError

Fill = Callable[..., np.ndarray]
VALUES = arrays(np.float64, (3, 3), elements=st.floats(0, 10, width=32))


@st.composite
def problems(draw, with_gains=None):
    num_modules = draw(st.integers(1, 8))
    ranks = draw(st.lists(st.integers(0, 6), min_size=num_modules, max_size=num_modules))
    sizes = draw(st.lists(st.integers(1, 40), min_size=num_modules, max_size=num_modules))
    total = sum(r * p for r, p in zip(ranks, sizes, strict=True))
    budget = draw(st.integers(0, total + 5))
    if not (draw(st.booleans()) if with_gains is None else with_gains):
        return ranks, sizes, budget, None
    gains_of_module = st.lists(st.floats(-2, 5), min_size=6, max_size=6)
    return ranks, sizes, budget, draw(st.lists(gains_of_module, min_size=num_modules, max_size=num_modules))


@given(problems())
def test_a_projection_fits_and_no_removed_component_would_fit(problem):
    ranks, sizes, budget, gains = problem
    kept = project_ranks(ranks, sizes, budget, gains=gains)
    assert kept.dtype == np.int64
    assert (kept >= 0).all()
    assert (kept <= ranks).all()
    left = budget - int(kept @ np.array(sizes))
    assert left >= 0
    for m, size in enumerate(sizes):
        assert kept[m] == ranks[m] or size > left


@given(problems())
def test_projection_is_idempotent(problem):
    ranks, sizes, budget, gains = problem
    kept = project_ranks(ranks, sizes, budget, gains=gains)
    np.testing.assert_array_equal(project_ranks(kept, sizes, budget, gains=gains), kept)


@given(problems())
def test_ranks_that_fit_are_not_changed(problem):
    ranks, sizes, _, gains = problem
    total = sum(r * p for r, p in zip(ranks, sizes, strict=True))
    np.testing.assert_array_equal(project_ranks(ranks, sizes, total, gains=gains), ranks)


@given(problems())
def test_a_budget_below_the_smallest_component_gives_rank_zero(problem):
    ranks, sizes, _, gains = problem
    assert not project_ranks(ranks, sizes, min(sizes) - 1, gains=gains).any()


@given(problems(with_gains=False))
def test_without_gains_every_module_keeps_at_least_its_share(problem):
    ranks, sizes, budget, _ = problem
    total = sum(r * p for r, p in zip(ranks, sizes, strict=True))
    kept = project_ranks(ranks, sizes, budget)
    if total > budget:
        assert all(kept[m] >= budget * ranks[m] // total for m in range(len(ranks)))


@given(problems(with_gains=False), st.integers(1, 10**12))
def test_scaling_all_sizes_and_the_budget_changes_nothing(problem, unit):
    ranks, sizes, budget, _ = problem
    scaled = project_ranks(ranks, [size * unit for size in sizes], budget * unit)
    np.testing.assert_array_equal(scaled, project_ranks(ranks, sizes, budget))


def best_total_gain(ranks, sizes, budget, gains):
    best = 0.0
    for kept in np.ndindex(*(rank + 1 for rank in ranks)):
        if sum(c * p for c, p in zip(kept, sizes, strict=True)) <= budget:
            best = max(best, sum(sum(gains[m][:c]) for m, c in enumerate(kept)))
    return best


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(0, 12))
def test_gains_of_equal_concave_modules_give_the_optimal_ranks(seed, num_modules, count):
    gains = np.sort(np.random.default_rng(seed).random((num_modules, 4)), axis=1)[:, ::-1]
    ranks, sizes = [4] * num_modules, [7] * num_modules
    kept = project_ranks(ranks, sizes, 7 * count, gains=gains)
    total = sum(gains[m, : kept[m]].sum() for m in range(num_modules))
    assert total == pytest.approx(best_total_gain(ranks, sizes, 7 * count, gains))


def test_proportional_shares_by_hand():
    np.testing.assert_array_equal(project_ranks([8, 4, 4], [10, 10, 10], 80), [4, 2, 2])
    # A budget of 85 gives shares 4.25, 2.1, 2.1. No ninth component fits.
    np.testing.assert_array_equal(project_ranks([8, 4, 4], [10, 10, 10], 85), [4, 2, 2])
    # A budget of 90 gives shares 4.5, 2.25, 2.25. The largest remainder gets the ninth component.
    np.testing.assert_array_equal(project_ranks([8, 4, 4], [10, 10, 10], 90), [5, 2, 2])


def test_free_budget_too_small_for_one_module_goes_to_another():
    # Shares .5 and 5. Module 0 has the largest remainder, but only components of size 5 fit into the 15 left.
    np.testing.assert_array_equal(project_ranks([1, 10], [30, 5], 40), [0, 8])
    np.testing.assert_array_equal(project_ranks([1, 10], [15, 5], 40), [0, 8])
    # Shares .92 and 9.2. Module 0 gets the 10 left.
    np.testing.assert_array_equal(project_ranks([1, 10], [10, 5], 55), [1, 9])


def test_gains_are_compared_per_parameter():
    # Module 0 has the larger gain per component, module 1 the larger gain per parameter.
    np.testing.assert_array_equal(project_ranks([1, 1], [100, 10], 100, gains=[[5.0], [1.0]]), [0, 1])


def test_free_budget_of_a_large_removed_component_is_filled_again():
    # The small components (.1 per parameter) are removed first, then the large one (.2). The small ones fit again.
    np.testing.assert_array_equal(project_ranks([1, 2], [100, 10], 50, gains=[[20.0, 0.0], [1.0, 1.0]]), [0, 2])


def test_free_budget_goes_to_the_largest_gain_per_parameter_first():
    # All components are removed, the large one last. One small one fits into 15; the second gains more per parameter.
    gains = [[20.0], [1.0], [1.8]]
    np.testing.assert_array_equal(project_ranks([1, 1, 1], [100, 10, 12], 15, gains=gains), [0, 0, 1])


def test_only_the_last_component_of_a_module_is_removed():
    # The first component of module 0 has the least gain, but its second has the largest.
    np.testing.assert_array_equal(project_ranks([2, 1], [10, 10], 20, gains=[[0.0, 9.0], [1.0, 0.0]]), [2, 0])


def test_of_equal_components_the_one_of_the_earlier_module_is_kept():
    np.testing.assert_array_equal(project_ranks([1, 1, 1], [10, 10, 10], 20, gains=np.ones((3, 1))), [1, 1, 0])
    np.testing.assert_array_equal(project_ranks([1, 1, 1], [10, 10, 10], 20), [1, 1, 0])


def test_gains_beyond_the_wanted_ranks_are_ignored():
    ranks, sizes = [2, 1], [3, 4]
    a = project_ranks(ranks, sizes, 7, gains=[[3.0, 2.0, 99.0], [1.0, 99.0, 99.0]])
    b = project_ranks(ranks, sizes, 7, gains=[[3.0, 2.0], [1.0, 0.0]])
    np.testing.assert_array_equal(a, b)


def test_no_modules_give_no_ranks():
    assert project_ranks([], [], 0).shape == (0,)


def test_the_argument_is_not_modified():
    wanted = np.array([4, 4])
    project_ranks(wanted, [10, 10], 30)
    np.testing.assert_array_equal(wanted, [4, 4])
    fits = project_ranks(wanted, [10, 10], 100)
    fits[0] = 0
    np.testing.assert_array_equal(wanted, [4, 4])


@pytest.mark.parametrize(
    ("ranks", "sizes", "gains", "message"),
    [
        ([1, -1], [1, 1], None, "ranks = -1"),
        ([1.5, 1.0], [1, 1], None, "type of ranks = 'float64'"),
        ([True, False], [1, 1], None, "type of ranks = 'bool'"),
        ([[1, 1]], [1, 1], None, "shape of ranks"),
        ([1, 1], [1, 0], None, "params_per_rank = 0"),
        ([1, 1], [1], None, "2 ranks for 1 modules"),
        ([1, 2], [1, 1], [[1.0], [1.0]], "shape of gains = .2, 1.: allowed is 2 modules by 2 or more components"),
        ([1, 1], [1, 1], [[1.0]], "shape of gains"),
        ([1, 1], [1, 1], [1.0, 1.0], "shape of gains"),
        ([1, 1], [1, 1], [[math.nan], [math.inf]], "gains: 2 of 2 are not finite"),
    ],
)
def test_malformed_arguments_are_refused(ranks, sizes, gains, message):
    with pytest.raises(RankPatternError, match=message):
        project_ranks(ranks, sizes, 1, gains=gains)


@pytest.mark.parametrize("budget", [-1, 1.5, math.nan, None])
def test_budgets_that_are_no_count_are_refused(budget):
    with pytest.raises(ChannelError, match="budget"):
        project_ranks([1], [1], budget)


def total_gain(gains: np.ndarray, ranks: object) -> float:
    return float(sum(gains[module, :rank].sum() for module, rank in enumerate(ranks)))  # type: ignore[call-overload]


def best(gains: np.ndarray, costs: list[int], budget: int) -> float:
    patterns = itertools.product(range(gains.shape[1] + 1), repeat=len(costs))
    return max(total_gain(gains, ranks) for ranks in patterns if np.dot(ranks, costs) <= budget)


@given(VALUES, st.integers(0, 12))
def test_greedy_filling_is_optimal_for_components_of_one_size(values: np.ndarray, num_components: int) -> None:
    gains = -np.sort(-values, axis=1)
    ranks = fill_greedily(gains, [7, 7, 7], 7 * num_components)
    assert total_gain(gains, ranks) == pytest.approx(best(gains, [7, 7, 7], 7 * num_components))


@given(VALUES, st.lists(st.integers(1, 9), min_size=3, max_size=3), st.integers(0, 60))
def test_greedy_filling_fits_and_is_within_one_component_of_the_optimum(
    values: np.ndarray, costs: list[int], budget: int
) -> None:
    gains = -np.sort(-values, axis=1)
    ranks = fill_greedily(gains, costs, budget)
    assert np.dot(ranks, costs) <= budget
    assert total_gain(gains, ranks) >= best(gains, costs, budget) - gains.max() - 1e-9


@given(VALUES, st.integers(0, 60))
def test_a_larger_budget_never_gains_less_for_components_of_one_size(values: np.ndarray, budget: int) -> None:
    gains = -np.sort(-values, axis=1)
    small, large = (total_gain(gains, fill_greedily(gains, [5, 5, 5], b)) for b in (budget, budget + 5))
    assert large >= small


def test_components_below_the_minimum_gain_per_parameter_are_left_out() -> None:
    gains = np.asarray([[4.0, 1.0], [2.0, 0.0]])
    assert fill_greedily(gains, [1, 1], 99).tolist() == [2, 1]
    assert fill_greedily(gains, [1, 1], 99, min_gain_per_param=1.0).tolist() == [1, 1]
    assert fill_greedily(gains, [1, 1], 99, min_gain_per_param=5.0).tolist() == [0, 0]


def test_a_component_that_does_not_fit_is_skipped() -> None:
    assert fill_greedily(np.asarray([[9.0, 8.0], [1.0, 0.5]]), [10, 2], 13).tolist() == [1, 1]


@given(VALUES)
def test_the_envelope_does_not_increase_keeps_the_sum_and_is_idempotent(values: np.ndarray) -> None:
    pooled = concave_envelope(values)
    assert (np.diff(pooled, axis=1) <= 1e-9).all()
    np.testing.assert_allclose(pooled.sum(axis=1), values.sum(axis=1), atol=1e-9)
    np.testing.assert_allclose(concave_envelope(pooled), pooled, atol=1e-9)


def best_by_table(gains: np.ndarray, costs: list[int], budget: int, price: float = 0.0) -> float:
    """Return the largest total gain less price by dynamic programming over modules and budgets."""
    value = np.zeros(budget + 1)
    for row, cost in zip(gains, costs, strict=True):
        totals = np.concatenate([[0.0], np.cumsum(row - price * cost)])
        value = np.asarray(
            [
                max(value[left - r * cost] + w for r, w in enumerate(totals) if r * cost <= left)
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
    assert total_gain(dear, ranks) == pytest.approx(best(dear, costs, budget), rel=1e-5, abs=1e-6)


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
    assert total_gain(dear, exact) == pytest.approx(best_by_table(gains, costs, budget, price), rel=1e-5)
    assert total_gain(dear, greedy) <= total_gain(dear, exact) + 1e-5
    assert total_gain(dear, greedy) >= total_gain(dear, exact) - gains.max() - 1e-5


@given(VALUES, COSTS, st.integers(0, 60))
def test_greedy_filling_is_never_better_than_exact_and_within_a_component(
    values: np.ndarray, costs: list[int], budget: int
) -> None:
    gains = -np.sort(-values, axis=1)
    greedy, exact = (total_gain(gains, fill(gains, costs, budget)) for fill in (fill_greedily, fill_exactly))
    assert greedy <= exact * (1 + 1e-5) + 1e-6
    assert greedy >= exact - gains.max() - 1e-6


@pytest.mark.parametrize("fill", [fill_greedily, fill_exactly])
def test_filling_takes_nothing_that_does_not_fit_or_has_no_gain(fill: Fill) -> None:
    gains = np.asarray([[4.0, 1.0], [2.0, 0.0]])
    assert fill(gains, [3, 5], 0).tolist() == [0, 0]
    assert fill(gains, [3, 5], 2).tolist() == [0, 0]
    assert fill(gains, [3, 5], 3).tolist() == [1, 0]
    assert fill(np.zeros((2, 2)), [3, 5], 99).tolist() == [0, 0]
    assert fill(gains, [1, 1], 99, min_gain_per_param=4.0).tolist() == [0, 0]
    assert fill(gains, [1, 1], 99, min_gain_per_param=1.0).tolist() == [1, 1]
    assert fill(gains, [1, 1], 99).tolist() == [2, 1]


@given(VALUES, COSTS, st.integers(0, 90), st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_fitting_removes_components_only_until_the_ranks_fit(
    values: np.ndarray, costs: list[int], budget: int, wanted: list[int]
) -> None:
    gains, ranks = -np.sort(-values, axis=1), np.asarray(wanted)
    kept = fit_to_budget(ranks, gains, costs, budget)
    left = budget - np.dot(kept, costs)
    assert left >= 0
    assert (kept <= ranks).all()
    if np.dot(ranks, costs) <= budget:
        np.testing.assert_array_equal(kept, ranks)
    # No removed component would fit.
    assert all(cost > left for cost, some, all_ in zip(costs, kept, ranks, strict=True) if some < all_)
    np.testing.assert_array_equal(fit_to_budget(kept, gains, costs, budget), kept)
    np.testing.assert_array_equal(ranks, wanted)


@given(VALUES, st.integers(0, 9), st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_fitting_removes_the_least_gain_for_components_of_one_size(
    values: np.ndarray, num_components: int, wanted: list[int]
) -> None:
    gains, ranks = -np.sort(-values, axis=1), np.asarray(wanted)
    kept = fit_to_budget(ranks, gains, [7, 7, 7], 7 * num_components)
    among = np.where(np.arange(3) < ranks[:, None], gains, 0.0)
    assert kept.sum() == min(num_components, ranks.sum())
    assert total_gain(gains, kept) == pytest.approx(best(among, [7, 7, 7], 7 * num_components))


@given(VALUES, COSTS, st.integers(0, 90), st.lists(st.integers(0, 3), min_size=3, max_size=3), PRICES)
def test_filling_after_fitting_lowers_no_rank_and_uses_the_free_budget(
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


def test_fitting_compares_gains_per_parameter() -> None:
    gains = np.asarray([[4.0, 3.0], [9.0, 8.0]])
    assert fit_to_budget(np.asarray([2, 2]), gains, [10, 30], 50).tolist() == [2, 1]
    assert fit_to_budget(np.asarray([0, 2]), gains, [10, 30], 50).tolist() == [0, 1]
    assert fit_to_budget(np.asarray([0, 2]), gains, [10, 30], 50, min_gain_per_param=0.0).tolist() == [2, 1]
    # Wanted components that fit are kept even if their gain is 0.
    assert fit_to_budget(np.asarray([2, 2]), np.zeros((2, 2)), [10, 30], 80).tolist() == [2, 2]
    assert fit_to_budget(np.asarray([2, 2]), np.zeros((2, 2)), [10, 30], 70).sum() == 3


@pytest.mark.parametrize(
    ("gains", "message"),
    [
        (np.asarray([[1.0, 2.0]]), "must not increase"),
        (np.asarray([[np.nan, 0.0]]), "finite"),
        (np.ones((2, 2)), "shape of gains"),
        (np.ones(3), "shape of gains"),
    ],
)
def test_gains_that_increase_or_have_a_wrong_shape_are_refused(gains: np.ndarray, message: str) -> None:
    for fill in (fill_greedily, fill_exactly, partial(fit_to_budget, np.ones(1, np.int64))):
        with pytest.raises(PolicyError, match=message):
            fill(gains, [3], 5)
