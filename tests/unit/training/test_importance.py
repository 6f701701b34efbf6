from collections.abc import Callable

import numpy as np
import pytest
import torch

from airlora.adapters import explained_variance_ratio
from airlora.config import Settings
from airlora.training import Workbench, assemble, evaluate, measure_explained_variance, measure_importance
from airlora.training.importance import measure_loss_rises, measure_taylor


@pytest.fixture
def bench(settings: Settings) -> Workbench:
    return assemble(settings)


@pytest.mark.parametrize("measure", [measure_explained_variance, measure_importance, measure_taylor])
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


def test_a_loss_rise_is_the_loss_without_the_component(bench: Workbench) -> None:
    with torch.no_grad():
        for update in bench.adapted.updates.values():
            for part in (update.P, update.lam, update.Q):
                part.copy_(torch.randn(part.shape, generator=torch.Generator().manual_seed(1)))
    rises = measure_loss_rises(bench.adapted, bench.calibration, bench.device, 5, num_samples=10_000)
    update = list(bench.adapted.updates.values())[3]
    whole = evaluate(bench.adapted.model, bench.calibration, bench.device).loss
    was = update.lam.detach().clone()
    with torch.no_grad():
        update.lam[2] = 0.0
    without = evaluate(bench.adapted.model, bench.calibration, bench.device).loss
    assert rises[3, 2] == pytest.approx(without - whole, abs=1e-5)
    assert abs(rises[3, 2]) > 1e-4
    # What is not there cannot be missed, and nothing was changed on the way.
    assert measure_loss_rises(bench.adapted, bench.calibration, bench.device, 5)[3, 2] == pytest.approx(0.0, abs=1e-6)
    assert update.lam.detach()[[0, 1, 3]].tolist() == was[[0, 1, 3]].tolist()


@pytest.mark.parametrize("num_samples", [1, 7, 15, 10_000])
def test_samples_for_loss_rises_span_all_lengths(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, num_samples: int
) -> None:
    data, taken = bench.calibration, []
    whole = type(data).batch

    def spy(self: object, indices: np.ndarray, device: torch.device) -> dict[str, torch.Tensor]:
        taken.extend(indices.tolist())
        return whole(data, indices, device)

    monkeypatch.setattr(type(data), "batch", spy)
    measure_loss_rises(bench.adapted, data, bench.device, 8, num_samples=num_samples)
    assert len(set(taken)) == len(taken) == min(num_samples, len(data))
    if num_samples > 1:
        lengths = data.lengths[taken]
        assert (lengths.min(), lengths.max()) == (data.lengths.min(), data.lengths.max())
