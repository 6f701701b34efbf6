from typing import Any

import numpy as np
import pytest

from airlora.codec import DenseTensor, ErrorMetric, ModuleUpdate
from airlora.codec.encoder.metric import squared_norms
from airlora.errors import CodecError


@pytest.mark.parametrize(
    ("U", "V", "importance", "message"),
    [
        (np.ones((3, 2)), np.ones((1, 4)), np.ones(2), "shapes of U and V"),
        (np.ones((3, 2)), np.ones((2, 4)), np.ones(3), "shape of importance"),
        (np.full((3, 1), np.nan), np.ones((1, 4)), np.ones(1), "U: contains values that are not finite"),
        (np.ones((3, 1)), np.ones((1, 4)), -np.ones(1), "importance = -1.0: allowed is numbers of 0 or more"),
    ],
)
def test_invalid_updates_are_refused(U: Any, V: Any, importance: Any, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        ModuleUpdate(U, V, importance)


def test_metrics_of_the_wrong_sizes_are_refused() -> None:
    metric = ErrorMetric.from_moments([np.eye(4)])
    with pytest.raises(CodecError, match=r"sizes of metrics = \(4, 4\): allowed is \(3, 4\)"):
        ModuleUpdate(np.ones((3, 1)), np.ones((1, 4)), np.ones(1), (metric, metric))


@pytest.mark.parametrize(("values", "importance"), [(np.array([np.inf]), 1.0), (np.zeros(0), 1.0), (np.ones(1), -1.0)])
def test_invalid_tensors_are_refused(values: Any, importance: float) -> None:
    with pytest.raises(CodecError):
        DenseTensor(values, importance)


def test_balanced_vectors_have_equal_norms_in_their_metrics_and_the_same_product() -> None:
    generator = np.random.default_rng(0)
    moments = [np.cov(generator.standard_normal((size, 30))) for size in (6, 9)]
    metrics = ErrorMetric.from_moments(moments[:1]), ErrorMetric.from_moments(moments[1:])
    update = ModuleUpdate(generator.standard_normal((6, 2)), generator.standard_normal((2, 9)), np.ones(2), metrics)
    u, v = update.balanced()
    assert squared_norms(u, metrics[0]) == pytest.approx(squared_norms(v, metrics[1]), rel=1e-5)
    assert np.einsum("ri,rj->rij", u, v) == pytest.approx(np.einsum("ir,rj->rij", update.U, update.V), rel=1e-5)
