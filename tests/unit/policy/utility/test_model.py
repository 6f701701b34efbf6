import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from airlora.policy import UtilityModel

True_ = Callable[..., UtilityModel]


def by_hand(model: UtilityModel, ranks: np.ndarray, text: np.ndarray) -> float:
    """The equation in `UtilityModel`, term by term."""
    total = 0.0
    for m, rank in enumerate(ranks):
        total += model.curves[m, rank] + (text - model.text_mean) @ model.text_curves[:, m, rank]
    for m, n in itertools.combinations(range(model.num_modules), 2):
        total += model.coupling[m, n] * model.basis[m, ranks[m]] * model.basis[n, ranks[n]]
    return total


def test_drop_is_the_equation(true_model: True_) -> None:
    model = true_model(1, text=0.3, coupling=0.5)
    generator = np.random.default_rng(0)
    ranks, texts = generator.integers(0, 7, (20, 5)), generator.normal(size=(20, 2))
    expected = [by_hand(model, row, text) for row, text in zip(ranks, texts, strict=True)]
    np.testing.assert_allclose(model.drop(ranks, texts), expected)
    np.testing.assert_allclose(model.drop(np.zeros((1, 5), np.int64), texts[:1]), 0, atol=1e-15)


@pytest.mark.parametrize("coupling", [0.0, 0.5])
def test_tables_around_are_what_a_change_of_one_module_does(true_model: True_, coupling: float) -> None:
    model, text = true_model(2, text=0.2, coupling=coupling), np.asarray([0.4, -1.0])
    ranks = np.asarray([3, 0, 6, 1, 2])
    table = model.tables_around(ranks, text)
    base = model.drop(ranks[None], text[None])[0]
    for module, rank in itertools.product(range(5), range(7)):
        other = ranks.copy()
        other[module] = rank
        change = model.drop(other[None], text[None])[0] - base
        assert table[module, rank] - table[module, ranks[module]] == pytest.approx(change, abs=1e-12)


def test_gains_never_rise_nor_fall_below_0(true_model: True_) -> None:
    for seed in range(20):
        model = true_model(seed, text=1.0, coupling=1.0)
        gains = model.gains([0.5, 2.0], around=np.full(5, 3))
        assert gains.shape == (5, 6)
        assert (gains >= 0).all()
        assert (np.diff(gains, axis=1) <= 1e-12).all()


def test_gains_of_plain_curves_are_their_steps(true_model: True_) -> None:
    model = true_model(3)
    np.testing.assert_allclose(model.gains([9.0, 9.0]), np.diff(model.curves, axis=1))
    assert model.is_separable
    assert not true_model(3, coupling=0.1).is_separable


def test_a_text_beyond_the_measured_ones_counts_as_the_nearest_of_them(true_model: True_) -> None:
    """Squares would run away."""
    model = replace(true_model(2, text=1.0), text_range=np.asarray([[0.0, -1.0], [1.0, 0.5]]))
    np.testing.assert_array_equal(model.tables([7.0, -9.0]), model.tables([1.0, -1.0]))
    ranks = np.full((1, 5), 3)
    assert model.drop(ranks, np.asarray([[7.0, 0.1]])) == model.drop(ranks, np.asarray([[1.0, 0.1]]))
    assert (model.tables([0.4, 0.1]) != model.tables([0.5, 0.1])).any()


def test_flat_makes_every_number_worth_the_same() -> None:
    model = UtilityModel.flat((10, 30), 4)
    np.testing.assert_allclose(model.gains([0, 0]) / [[10], [30]], 1 / 160)
    assert model.drop(np.asarray([[4, 4]]), np.zeros((1, 2)))[0] == pytest.approx(1)
    assert (model.num_modules, model.r_max) == (2, 4)


def test_comes_back_bit_equal_from_its_state(true_model: True_) -> None:
    model = true_model(4, text=0.3, coupling=0.3)
    state = model.state_dict()
    again = UtilityModel.from_state_dict(state)
    for name in ("curves", "text_curves", "text_mean", "basis", "coupling", "feature_mean", "text_range"):
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))
        state[name].zero_()
        assert getattr(again, name).any() == getattr(model, name).any()
