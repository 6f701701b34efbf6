import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import lsq_linear, nnls

from airlora.policy.utility.least_squares import ridge_least_squares

TOLERANCE = 1e-4
"""Tolerance of a weight times the norm of its column, for targets of size 1."""


def draw(seed: int, num_columns: int, num_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return columns of very different norms, targets, and the ridge of each column."""
    generator = np.random.default_rng(seed)
    sizes = 10.0 ** generator.uniform(-2, 2, num_columns)
    columns = generator.normal(size=(num_rows, num_columns)) * sizes
    penalty = generator.uniform(0.01, 1.0, num_columns) * sizes**2
    return columns, generator.normal(size=num_rows), penalty


def with_ridge(columns: np.ndarray, targets: np.ndarray, penalty: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return columns and targets with the ridge as additional rows, for the reference solvers."""
    return np.vstack([columns, np.diag(np.sqrt(penalty))]), np.concatenate([targets, np.zeros(len(penalty))])


SHAPES = (st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 30))


@given(*SHAPES)
def test_non_negative_weights_equal_nnls(seed: int, num_columns: int, num_rows: int) -> None:
    columns, targets, penalty = draw(seed, num_columns, num_rows)
    weights = ridge_least_squares(columns.T @ columns, columns.T @ targets, penalty, np.zeros(num_columns))
    expected, _ = nnls(*with_ridge(columns, targets, penalty))
    scale = np.sqrt((columns**2).sum(axis=0) + penalty)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights * scale, expected * scale, atol=TOLERANCE)
    rows, wanted = with_ridge(columns, targets, penalty)
    least = np.sum((rows @ expected - wanted) ** 2)
    assert np.sum((rows @ weights - wanted) ** 2) <= least + 1e-10 * np.sum(wanted**2)


@given(*SHAPES)
def test_partly_bounded_weights_equal_lsq_linear(seed: int, num_columns: int, num_rows: int) -> None:
    columns, targets, penalty = draw(seed, num_columns, num_rows)
    lower = np.where(np.arange(num_columns) % 2, -np.inf, 0.0)
    weights = ridge_least_squares(columns.T @ columns, columns.T @ targets, penalty, lower)
    rows, wanted = with_ridge(columns, targets, penalty)
    scale = np.linalg.norm(rows, axis=0)
    expected = lsq_linear(rows / scale, wanted, bounds=(lower, np.inf), tol=1e-13, method="bvls").x
    np.testing.assert_allclose(weights * scale, expected, atol=TOLERANCE)


@given(*SHAPES)
def test_unbounded_weights_solve_the_normal_equations(seed: int, num_columns: int, num_rows: int) -> None:
    columns, targets, penalty = draw(seed, num_columns, num_rows)
    gram, moment = columns.T @ columns, columns.T @ targets
    weights = ridge_least_squares(gram, moment, penalty, np.full(num_columns, -np.inf))
    scale = np.sqrt(np.diag(gram) + penalty)
    np.testing.assert_allclose(
        weights * scale, np.linalg.solve(gram + np.diag(penalty), moment) * scale, atol=TOLERANCE
    )


@given(*SHAPES)
def test_the_result_satisfies_the_karush_kuhn_tucker_conditions(seed: int, num_columns: int, num_rows: int) -> None:
    # The gradient is 0 for positive weights and non-negative for weights at their bound.
    columns, targets, penalty = draw(seed, num_columns, num_rows)
    gram, moment = columns.T @ columns, columns.T @ targets
    weights = ridge_least_squares(gram, moment, penalty, np.zeros(num_columns))
    slope = (gram @ weights + penalty * weights - moment) / np.sqrt(np.diag(gram) + penalty)
    assert np.abs(slope[weights > 0]).max(initial=0.0) < 1e-8
    assert slope.min() > -1e-8


def test_the_start_does_not_change_the_result() -> None:
    columns, targets, penalty = draw(3, 8, 20)
    arguments = (columns.T @ columns, columns.T @ targets, penalty, np.zeros(8))
    scale = np.sqrt(np.diag(arguments[0]) + penalty)
    start = 5.0 * np.random.default_rng(0).normal(size=8) / scale
    np.testing.assert_allclose(
        ridge_least_squares(*arguments, start) * scale, ridge_least_squares(*arguments) * scale, atol=TOLERANCE
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("penalty", [1.0, 1e-300, 1e-309])
def test_columns_of_zeros_have_weight_0(penalty: float) -> None:
    weights = ridge_least_squares(np.zeros((2, 2)), np.zeros(2), np.full(2, penalty), np.zeros(2))
    assert weights.tolist() == [0.0, 0.0]
