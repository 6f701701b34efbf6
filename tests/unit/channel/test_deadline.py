import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airlora.channel import project_ranks
from airlora.errors import ChannelError, RankPatternError


@st.composite
def problems(draw, with_gains=None):
    num_modules = draw(st.integers(1, 8))
    ranks = draw(st.lists(st.integers(0, 6), min_size=num_modules, max_size=num_modules))
    sizes = draw(st.lists(st.integers(1, 40), min_size=num_modules, max_size=num_modules))
    total = sum(r * p for r, p in zip(ranks, sizes, strict=True))
    budget = draw(st.integers(0, total + 5))
    if not (draw(st.booleans()) if with_gains is None else with_gains):
        return ranks, sizes, budget, None
    worth = st.lists(st.floats(-2, 5), min_size=6, max_size=6)
    return ranks, sizes, budget, draw(st.lists(worth, min_size=num_modules, max_size=num_modules))


@given(problems())
def test_result_is_a_maximal_cut_that_fits(problem):
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
def test_a_pattern_that_fits_stays(problem):
    ranks, sizes, _, gains = problem
    total = sum(r * p for r, p in zip(ranks, sizes, strict=True))
    np.testing.assert_array_equal(project_ranks(ranks, sizes, total, gains=gains), ranks)


@given(problems())
def test_nothing_is_sent_where_nothing_fits(problem):
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
def test_units_of_the_budget_do_not_matter(problem, unit):
    ranks, sizes, budget, _ = problem
    scaled = project_ranks(ranks, [size * unit for size in sizes], budget * unit)
    np.testing.assert_array_equal(scaled, project_ranks(ranks, sizes, budget))


def best_worth(ranks, sizes, budget, gains):
    """Return the greatest worth of any cut that fits, by trying all."""
    best = 0.0
    for cut in np.ndindex(*(rank + 1 for rank in ranks)):
        if sum(c * p for c, p in zip(cut, sizes, strict=True)) <= budget:
            best = max(best, sum(sum(gains[m][:c]) for m, c in enumerate(cut)))
    return best


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(0, 12))
def test_gains_choose_the_best_cut_of_equal_concave_modules(seed, num_modules, count):
    """With equal sizes and gains that fall with k, dropping the least first is optimal."""
    gains = np.sort(np.random.default_rng(seed).random((num_modules, 4)), axis=1)[:, ::-1]
    ranks, sizes = [4] * num_modules, [7] * num_modules
    kept = project_ranks(ranks, sizes, 7 * count, gains=gains)
    worth = sum(gains[m, : kept[m]].sum() for m in range(num_modules))
    assert worth == pytest.approx(best_worth(ranks, sizes, 7 * count, gains))


def test_proportional_by_hand():
    np.testing.assert_array_equal(project_ranks([8, 4, 4], [10, 10, 10], 80), [4, 2, 2])
    # A budget of 85 gives shares 4.25, 2.1, 2.1: no ninth component fits.
    np.testing.assert_array_equal(project_ranks([8, 4, 4], [10, 10, 10], 85), [4, 2, 2])
    # A budget of 90 gives shares 4.5, 2.25, 2.25: the largest remainder takes it.
    np.testing.assert_array_equal(project_ranks([8, 4, 4], [10, 10, 10], 90), [5, 2, 2])


def test_room_too_small_for_one_module_goes_to_another():
    # Shares .5 and 5; the largest remainder is module 0's, but 30 do not fit into the 15 left over: three times 5 do.
    np.testing.assert_array_equal(project_ranks([1, 10], [30, 5], 40), [0, 8])
    np.testing.assert_array_equal(project_ranks([1, 10], [15, 5], 40), [0, 8])
    # Shares .92 and 9.2, and 10 left over: module 0 takes them.
    np.testing.assert_array_equal(project_ranks([1, 10], [10, 5], 55), [1, 9])


def test_gains_are_weighed_per_number():
    # Module 0 is worth more a component, module 1 more a number.
    np.testing.assert_array_equal(project_ranks([1, 1], [100, 10], 100, gains=[[5.0], [1.0]]), [0, 1])


def test_room_left_by_a_large_component_is_filled_again():
    # The two small ones (worth .1 a number) go first, then the large one (.2) has to go too: all small ones fit again.
    np.testing.assert_array_equal(project_ranks([1, 2], [100, 10], 50, gains=[[20.0, 0.0], [1.0, 1.0]]), [0, 2])


def test_room_left_over_goes_to_the_greatest_gain_first():
    # All are dropped, the large one last; one small one fits into 15, and the second is worth more a number.
    gains = [[20.0], [1.0], [1.8]]
    np.testing.assert_array_equal(project_ranks([1, 1, 1], [100, 10, 12], 15, gains=gains), [0, 0, 1])


def test_only_tops_are_dropped():
    # Module 0's first component is the worst of all, but lies below its best.
    np.testing.assert_array_equal(project_ranks([2, 1], [10, 10], 20, gains=[[0.0, 9.0], [1.0, 0.0]]), [2, 0])


def test_of_equals_the_earlier_module_keeps_its_component():
    np.testing.assert_array_equal(project_ranks([1, 1, 1], [10, 10, 10], 20, gains=np.ones((3, 1))), [1, 1, 0])
    np.testing.assert_array_equal(project_ranks([1, 1, 1], [10, 10, 10], 20), [1, 1, 0])


def test_gains_beyond_the_wanted_ranks_do_not_matter():
    ranks, sizes = [2, 1], [3, 4]
    a = project_ranks(ranks, sizes, 7, gains=[[3.0, 2.0, 99.0], [1.0, 99.0, 99.0]])
    b = project_ranks(ranks, sizes, 7, gains=[[3.0, 2.0], [1.0, 0.0]])
    np.testing.assert_array_equal(a, b)


def test_no_modules():
    assert project_ranks([], [], 0).shape == (0,)


def test_the_wanted_ranks_are_not_changed():
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
def test_bad_patterns(ranks, sizes, gains, message):
    with pytest.raises(RankPatternError, match=message):
        project_ranks(ranks, sizes, 1, gains=gains)


@pytest.mark.parametrize("budget", [-1, 1.5, math.nan, None])
def test_bad_budgets(budget):
    with pytest.raises(ChannelError, match="budget"):
        project_ranks([1], [1], budget)
