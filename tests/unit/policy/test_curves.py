import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.errors import PolicyError
from airlora.policy import fit_curves, rank_knots

NUM_MODULES, R_MAX = 5, 6


def problem(seed: int, count: int, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patterns, true gains and losses of concave curves."""
    generator = np.random.default_rng(seed)
    gains = -np.sort(-generator.exponential(0.1, (NUM_MODULES, R_MAX)), axis=1)
    ranks = generator.integers(0, R_MAX + 1, (count, NUM_MODULES))
    total = np.asarray([sum(gains[m, :r].sum() for m, r in enumerate(row)) for row in ranks])
    return ranks, gains, 2.0 - total + noise * generator.normal(size=count)


@pytest.mark.parametrize("r_max", [1, 2, 3, 8, 16, 64, 128])
def test_knots_rise_and_end_at_r_max(r_max: int) -> None:
    knots = rank_knots(r_max)
    assert knots[-1] == r_max
    assert (np.diff(knots) > 0).all()
    assert set(range(1, min(5, r_max))) <= set(knots.tolist())


def test_recovers_piecewise_linear_concave_curves() -> None:
    ranks, gains, losses = problem(0, 400)
    # Ranks 5 and 6 share a piece between the knots 4 and 6.
    gains[:, 4:6] = gains[:, 4:6].mean(axis=1, keepdims=True)
    losses = 2.0 - np.asarray([sum(gains[m, :r].sum() for m, r in enumerate(row)) for row in ranks])
    fit = fit_curves(ranks, losses, np.zeros((400, 2)), r_max=R_MAX, ridge=0.0)
    np.testing.assert_allclose(fit.gains, gains, atol=1e-3)
    assert fit.residual_std < 1e-3


@given(st.integers(0, 1000), st.floats(0, 0.5))
def test_curves_are_concave_and_rise_whatever_the_noise(seed: int, noise: float) -> None:
    ranks, _, losses = problem(seed, 40, noise)
    fit = fit_curves(ranks, losses, np.zeros((40, 2)), r_max=R_MAX, ridge=1e-3)
    assert (fit.gains >= 0).all()
    assert (np.diff(fit.gains, axis=1) <= 1e-12).all()


def test_more_measurements_come_closer() -> None:
    errors = []
    for count in (30, 300, 3000):
        ranks, gains, losses = problem(1, count, noise=0.1)
        fit = fit_curves(ranks, losses, np.zeros((count, 2)), r_max=R_MAX, ridge=1e-3)
        errors.append(np.abs(fit.gains.sum(axis=1) - gains.sum(axis=1)).mean())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


@pytest.mark.parametrize("num_texts", [4, 1000])
def test_the_level_of_a_text_is_not_taken_for_a_gain(num_texts: int) -> None:
    ranks, gains, losses = problem(2, 1000)
    generator = np.random.default_rng(0)
    texts = generator.normal(size=(num_texts, 2))[np.arange(1000) % num_texts]
    level = texts @ np.asarray([3.0, -2.0])
    fit = fit_curves(ranks, losses + level, texts, r_max=R_MAX, ridge=0.0)
    np.testing.assert_allclose(fit.gains.sum(axis=1), gains.sum(axis=1), atol=0.02)


def test_a_module_that_was_never_moved_has_no_gain() -> None:
    ranks, _, losses = problem(3, 200)
    ranks[:, 2] = 0
    fit = fit_curves(ranks, losses, np.zeros((200, 2)), r_max=R_MAX, ridge=1e-3)
    assert (fit.gains[2] == 0).all()


def test_one_measurement_gives_no_gain_and_none_is_refused() -> None:
    fit = fit_curves(np.ones((1, 3), np.int64), np.ones(1), np.zeros((1, 2)), r_max=2, ridge=1e-3)
    assert (fit.gains == 0).all()
    with pytest.raises(PolicyError, match="no measured loss"):
        fit_curves(np.ones((0, 3), np.int64), np.ones(0), np.zeros((0, 2)), r_max=2, ridge=1e-3)
    with pytest.raises(PolicyError, match="finite"):
        fit_curves(np.ones((1, 3), np.int64), np.full(1, np.nan), np.zeros((1, 2)), r_max=2, ridge=1e-3)
