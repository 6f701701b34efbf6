from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from airlora.codec import ErrorMetric
from airlora.codec.encoder.metric import DAMPING, squared_norms
from airlora.errors import CodecError


def test_the_norm_is_that_of_the_damped_and_scaled_second_moment() -> None:
    generator = np.random.default_rng(1)
    samples = generator.standard_normal((40, 20)) * np.exp(-0.1 * np.arange(20))
    moment = samples.T @ samples
    rows = generator.standard_normal((5, 20))
    damped = moment / np.trace(moment) * 20 + DAMPING * np.eye(20)
    damped /= np.exp(np.linalg.slogdet(damped)[1] / 20)
    expected = np.einsum("ri,ij,rj->r", rows, damped, rows)
    assert squared_norms(rows, ErrorMetric.from_moments([7.0 * moment])) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [1e-38, 1.0, 3e38])
def test_the_norm_scales_with_rows_of_any_size(size: float) -> None:
    generator = np.random.default_rng(3)
    samples = generator.standard_normal((40, 20))
    metric = ErrorMetric.from_moments([samples.T @ samples])
    rows = generator.uniform(-1.0, 1.0, (5, 20))
    found = squared_norms((size * rows).astype(np.float32), metric)
    assert found == pytest.approx(size**2 * squared_norms(rows, metric), rel=1e-5, abs=0.0)
    assert squared_norms(np.zeros((2, 20)), metric).tolist() == [0.0, 0.0]


def test_the_squared_diagonal_has_geometric_mean_one() -> None:
    metric = ErrorMetric.from_moments([np.diag([0.1, 1.0, 5.0])])
    squares = np.square(np.diagonal(metric.factors[0]).astype(np.float64))
    assert np.exp(np.log(squares).mean()) == pytest.approx(1.0)
    assert metric.mean_squared_diagonal == pytest.approx(squares.mean())
    assert metric.mean_squared_diagonal > 1.0


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "blocks = 0: allowed is one or more"),
        ([np.zeros((2, 3))], r"shape of a second moment = \(2, 3\): allowed is square"),
        ([np.full((2, 2), np.nan)], "not finite"),
        ([np.array([[1.0, 5.0], [5.0, 1.0]])], "not positive semidefinite"),
    ],
)
def test_an_invalid_second_moment_is_refused(blocks: list[NDArray[Any]], message: str) -> None:
    with pytest.raises(CodecError, match=message):
        ErrorMetric.from_moments(blocks)
