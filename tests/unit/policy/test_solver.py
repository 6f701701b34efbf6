import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from airlora.errors import PolicyError
from airlora.policy import concave_envelope, fill_greedily

VALUES = arrays(np.float64, (3, 3), elements=st.floats(0, 10, width=32))


def worth(gains: np.ndarray, ranks: object) -> float:
    return float(sum(gains[module, :rank].sum() for module, rank in enumerate(ranks)))  # type: ignore[call-overload]


def best(gains: np.ndarray, costs: list[int], budget: int) -> float:
    patterns = itertools.product(range(gains.shape[1] + 1), repeat=len(costs))
    return max(worth(gains, ranks) for ranks in patterns if np.dot(ranks, costs) <= budget)


@given(VALUES, st.integers(0, 12))
def test_is_exact_for_modules_of_one_size(values: np.ndarray, num_components: int) -> None:
    gains = -np.sort(-values, axis=1)
    ranks = fill_greedily(gains, [7, 7, 7], 7 * num_components)
    assert worth(gains, ranks) == pytest.approx(best(gains, [7, 7, 7], 7 * num_components))


@given(VALUES, st.lists(st.integers(1, 9), min_size=3, max_size=3), st.integers(0, 60))
def test_fits_and_lacks_less_than_one_component(values: np.ndarray, costs: list[int], budget: int) -> None:
    gains = -np.sort(-values, axis=1)
    ranks = fill_greedily(gains, costs, budget)
    assert np.dot(ranks, costs) <= budget
    assert worth(gains, ranks) >= best(gains, costs, budget) - gains.max() - 1e-9


@given(VALUES, st.integers(0, 60))
def test_a_larger_budget_is_never_worth_less_for_one_size(values: np.ndarray, budget: int) -> None:
    gains = -np.sort(-values, axis=1)
    small, large = (worth(gains, fill_greedily(gains, [5, 5, 5], b)) for b in (budget, budget + 5))
    assert large >= small


def test_what_is_worth_too_little_is_left_out() -> None:
    gains = np.asarray([[4.0, 1.0], [2.0, 0.0]])
    assert fill_greedily(gains, [1, 1], 99).tolist() == [2, 1]
    assert fill_greedily(gains, [1, 1], 99, min_gain_per_param=1.0).tolist() == [1, 1]
    assert fill_greedily(gains, [1, 1], 99, min_gain_per_param=5.0).tolist() == [0, 0]


def test_a_component_that_no_longer_fits_is_passed_over() -> None:
    assert fill_greedily(np.asarray([[9.0, 8.0], [1.0, 0.5]]), [10, 2], 13).tolist() == [1, 1]


@given(VALUES)
def test_the_envelope_falls_keeps_the_sum_and_is_idempotent(values: np.ndarray) -> None:
    pooled = concave_envelope(values)
    assert (np.diff(pooled, axis=1) <= 1e-9).all()
    np.testing.assert_allclose(pooled.sum(axis=1), values.sum(axis=1), atol=1e-9)
    np.testing.assert_allclose(concave_envelope(pooled), pooled, atol=1e-9)


@pytest.mark.parametrize(
    ("gains", "message"),
    [
        (np.asarray([[1.0, 2.0]]), "do not rise"),
        (np.asarray([[np.nan, 0.0]]), "finite"),
        (np.ones((2, 2)), "shape of gains"),
        (np.ones(3), "shape of gains"),
    ],
)
def test_refuses_gains_that_are_no_curves(gains: np.ndarray, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        fill_greedily(gains, [3], 5)
