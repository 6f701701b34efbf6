import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.policy.utility.features import (
    MAX_COUPLED,
    MAX_LEVELS,
    Features,
    coupled_pairs,
    curve_columns,
    level_columns,
    rank_knots,
    saturating_basis,
)


@pytest.mark.parametrize("r_max", [1, 2, 3, 4, 5, 6, 7, 8, 16, 64, 128])
def test_knots_rise_and_end_at_r_max(r_max: int) -> None:
    knots = rank_knots(r_max)
    assert knots[-1] == r_max
    assert (np.diff(knots) > 0).all()
    assert set(range(1, min(5, r_max))) <= set(knots.tolist())


@given(st.lists(st.floats(0, 5), min_size=8, max_size=8))
def test_every_sum_of_curve_columns_is_concave_rises_and_starts_at_0(weights: list[float]) -> None:
    curve = curve_columns(np.arange(17)[:, None], rank_knots(16)) @ np.asarray(weights)
    gains = np.diff(curve)
    assert curve[0] == 0
    assert (gains >= -1e-12).all()
    assert (np.diff(gains) <= 1e-9).all()


@given(st.lists(st.floats(0, 5), min_size=8, max_size=8))
def test_every_concave_curve_that_bends_at_knots_is_a_sum_of_columns(values: list[float]) -> None:
    knots = rank_knots(16)
    slopes = np.sort(values)[::-1]
    curve = np.interp(
        np.arange(17),
        np.concatenate([[0], knots]),
        np.concatenate([[0], np.cumsum(slopes * np.diff(knots, prepend=0))]),
    )
    weights = -np.diff(slopes, append=0.0)
    np.testing.assert_allclose(curve_columns(np.arange(17)[:, None], knots) @ weights, curve, atol=1e-9)


def test_few_texts_get_a_level_each_and_many_a_line() -> None:
    which = np.arange(40) % 3
    few = level_columns(np.asarray([[0.0, 0.1], [0.5, 0.1], [1.0, 0.7]])[which])
    np.testing.assert_array_equal(few, np.eye(3)[which])
    many = level_columns(np.random.default_rng(0).normal(size=(4 * MAX_LEVELS + 4, 2)))
    assert many.shape[1] == 3
    np.testing.assert_allclose(many.mean(axis=0), [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(many.std(axis=0), [0, 1, 1])


def test_texts_measured_too_rarely_for_levels_get_a_line() -> None:
    # Three texts in eleven measurements: a level each would be fitted to fewer than four.
    assert level_columns(np.repeat([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [4, 4, 3], axis=0)).shape == (11, 3)
    # A part of the text state that never changed says nothing.
    assert level_columns(np.asarray([[0.0, 5.0], [1.0, 5.0]])).shape == (2, 2)
    assert level_columns(np.ones((1, 2))).tolist() == [[1.0]]


def test_the_basis_runs_from_0_to_1_and_keeps_the_shape() -> None:
    curves = np.asarray([[0.0, 3.0, 4.0], [0.0, 0.0, 0.0], [0.0, 1e-9, 2e-9]])
    basis = saturating_basis(curves)
    np.testing.assert_allclose(basis[0], [0, 0.75, 1])
    np.testing.assert_array_equal(basis[1], basis[2])
    for shape in (basis, saturating_basis(np.zeros((2, 9)))):
        np.testing.assert_allclose(shape[:, 0], 0)
        np.testing.assert_allclose(shape[:, -1], 1)
        assert (np.diff(shape, axis=1) > 0).all()
        assert (np.diff(shape, n=2, axis=1) < 0).all()


def test_pairs_are_among_the_most_useful_modules_once_each() -> None:
    num_modules = MAX_COUPLED + 5
    curves = np.zeros((num_modules, 3))
    curves[:, -1] = np.arange(num_modules)
    first, second = coupled_pairs(curves)
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == MAX_COUPLED * (MAX_COUPLED - 1) // 2
    assert (first < second).all()
    assert min(first) == 5
    assert len(coupled_pairs(np.zeros((1, 3)))[0]) == 0


def test_columns_by_hand() -> None:
    features = Features(
        knots=np.asarray([1, 2]),
        basis=np.asarray([[0.0, 0.8, 1.0], [0.0, 0.5, 1.0]]),
        worths=np.asarray([[0.0, 1.6, 2.0], [0.0, 0.1, 0.2]]),
        text_mean=np.asarray([1.0, 0.0]),
        feature_mean=np.asarray([0.0, 0.0, 3.0, 0.0, 0.0]),
        text_range=np.asarray([[1.0, -1.0], [3.0, 4.0]]),
        text_scale=np.asarray([1.0, 2.0, 1.0, 1.0, 4.0]),
        pairs=(np.asarray([0]), np.asarray([1])),
    )
    columns = features.columns(np.asarray([[2, 1], [0, 2]]), np.asarray([[3.0, -1.0], [1.0, 4.0]]))
    assert features.sizes() == {"curves": 4, "prior": 0, "text": 10, "pairs": 1}
    # Off their mean and by their scale, the text's features are 2, -1/2, 4 - 3, -2, 1/4 and 0, 2, 0 - 3, 0, 4.
    expected = [
        [1, 2, 1, 1, *np.outer([2, -0.5, 1, -2, 0.25], [2.0, 0.1]).ravel(), 0.5],
        [0, 0, 1, 2, *np.outer([0, 2, -3, 0, 4], [0.0, 0.2]).ravel(), 0],
    ]
    np.testing.assert_allclose(columns, expected)


def test_a_text_that_never_changed_has_no_columns_of_weight() -> None:
    curves = np.asarray([[0.0, 1.0, 1.5], [0.0, 3.0, 4.0]])
    ranks = np.asarray([[0, 1], [2, 2], [1, 0], [1, 2]])
    one = Features.of(curves, np.asarray([1, 2]), np.full((4, 2), 0.3), None)
    assert not one.columns(ranks, np.full((4, 2), 0.3))[:, 4:14].any()
    # Of two texts the squares are the same: they would be a second set of curves.
    texts = np.asarray([[0.0, 0.1], [1.0, 0.5]])[[0, 1, 1, 0]]
    two = Features.of(curves, np.asarray([1, 2]), texts, None)
    blocks = two.columns(ranks, texts)[:, 4:14].reshape(4, 5, 2).any(axis=(0, 2))
    assert blocks.tolist() == [True, True, False, False, False]
