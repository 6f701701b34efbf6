import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import lsq_linear, nnls

from airlora.policy.utility.least_squares import ridge_least_squares

TOLERANCE = 1e-4
"""Of a weight times the size of its column, where targets are about 1; what is minimised is met far closer."""


def draw(seed: int, num_columns: int, num_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns of very different sizes, targets, and a ridge for each column."""
    generator = np.random.default_rng(seed)
    sizes = 10.0 ** generator.uniform(-2, 2, num_columns)
    columns = generator.normal(size=(num_rows, num_columns)) * sizes
    penalty = generator.uniform(0.01, 1.0, num_columns) * sizes**2
    return columns, generator.normal(size=num_rows), penalty


def with_ridge(columns: np.ndarray, targets: np.ndarray, penalty: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ridge as rows of its own, which the reference solvers understand."""
    return np.vstack([columns, np.diag(np.sqrt(penalty))]), np.concatenate([targets, np.zeros(len(penalty))])


SHAPES = (st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 30))


@given(*SHAPES)
def test_equals_nnls_where_nothing_may_be_negative(seed: int, num_columns: int, num_rows: int) -> None:
    columns, targets, penalty = draw(seed, num_columns, num_rows)
    found = ridge_least_squares(columns.T @ columns, columns.T @ targets, penalty, np.zeros(num_columns))
    expected, _ = nnls(*with_ridge(columns, targets, penalty))
    scale = np.sqrt((columns**2).sum(axis=0) + penalty)
    assert (found >= 0).all()
    np.testing.assert_allclose(found * scale, expected * scale, atol=TOLERANCE)
    rows, wanted = with_ridge(columns, targets, penalty)
    least = np.sum((rows @ expected - wanted) ** 2)
    assert np.sum((rows @ found - wanted) ** 2) <= least + 1e-10 * np.sum(wanted**2)


@given(*SHAPES)
def test_equals_lsq_linear_where_some_may_be(seed: int, num_columns: int, num_rows: int) -> None:
    columns, targets, penalty = draw(seed, num_columns, num_rows)
    lower = np.where(np.arange(num_columns) % 2, -np.inf, 0.0)
    found = ridge_least_squares(columns.T @ columns, columns.T @ targets, penalty, lower)
    rows, wanted = with_ridge(columns, targets, penalty)
    scale = np.linalg.norm(rows, axis=0)
    expected = lsq_linear(rows / scale, wanted, bounds=(lower, np.inf), tol=1e-13, method="bvls").x
    np.testing.assert_allclose(found * scale, expected, atol=TOLERANCE)


@given(*SHAPES)
def test_equals_the_normal_equations_where_all_may_be(seed: int, num_columns: int, num_rows: int) -> None:
    columns, targets, penalty = draw(seed, num_columns, num_rows)
    gram, moment = columns.T @ columns, columns.T @ targets
    found = ridge_least_squares(gram, moment, penalty, np.full(num_columns, -np.inf))
    scale = np.sqrt(np.diag(gram) + penalty)
    np.testing.assert_allclose(found * scale, np.linalg.solve(gram + np.diag(penalty), moment) * scale, atol=TOLERANCE)


@given(*SHAPES)
def test_no_weight_is_wrong_at_the_end(seed: int, num_columns: int, num_rows: int) -> None:
    """Karush-Kuhn-Tucker, closely: no slope where a weight is free, none that asks for more where it is bound."""
    columns, targets, penalty = draw(seed, num_columns, num_rows)
    gram, moment = columns.T @ columns, columns.T @ targets
    found = ridge_least_squares(gram, moment, penalty, np.zeros(num_columns))
    slope = (gram @ found + penalty * found - moment) / np.sqrt(np.diag(gram) + penalty)
    assert np.abs(slope[found > 0]).max(initial=0.0) < 1e-8
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
def test_columns_of_zeros_get_no_weight(penalty: float) -> None:
    found = ridge_least_squares(np.zeros((2, 2)), np.zeros(2), np.full(2, penalty), np.zeros(2))
    assert found.tolist() == [0.0, 0.0]
