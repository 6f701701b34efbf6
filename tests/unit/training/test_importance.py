from collections.abc import Callable

import numpy as np
import pytest
import torch

from airlora.adapters import explained_variance_ratio
from airlora.config import Settings
from airlora.training import Workbench, assemble, measure_explained_variance, measure_importance


@pytest.fixture
def bench(settings: Settings) -> Workbench:
    return assemble(settings)


@pytest.mark.parametrize("measure", [measure_explained_variance, measure_importance])
def test_one_number_per_component(bench: Workbench, measure: Callable[..., np.ndarray]) -> None:
    values = measure(bench.adapted, bench.calibration, bench.device, 8)
    assert values.shape == (12, 4)
    assert values.dtype == np.float64
    assert (values >= 0).all()


def test_explained_variance_does_not_depend_on_batches_or_training(bench: Workbench) -> None:
    whole = measure_explained_variance(bench.adapted, bench.calibration, bench.device, len(bench.calibration))
    batch = bench.calibration.batch(np.arange(len(bench.calibration)), bench.device)
    np.testing.assert_allclose(whole, explained_variance_ratio(bench.adapted, [batch]), rtol=1e-5)
    with torch.no_grad():
        for parameter in bench.adapted.trainable_parameters():
            parameter.add_(1.0)
    small = measure_explained_variance(bench.adapted, bench.calibration, bench.device, 3)
    np.testing.assert_allclose(small, whole, rtol=1e-5)
    assert (whole > 0).all()
