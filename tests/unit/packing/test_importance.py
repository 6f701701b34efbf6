import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from airlora.adapters import explained_variance_ratio
from airlora.packing import measure_explained_variance, measure_importance
from airlora.packing.importance import (
    PathGradients,
    integrate_gates,
    measure_balanced,
    measure_loss_rises,
    measure_path,
    measure_taylor,
)
from airlora.tasks import evaluate, predict
from airlora.training import RunContext, Settings, build_context


@pytest.fixture
def bench(settings: Settings) -> RunContext:
    return build_context(settings)


@pytest.mark.parametrize(
    "measure", [measure_balanced, measure_explained_variance, measure_importance, measure_path, measure_taylor]
)
def test_one_number_per_component(bench: RunContext, measure: Callable[..., np.ndarray]) -> None:
    values = measure(bench.adapted, bench.calibration, bench.device, 8)
    assert values.shape == (12, 4)
    assert values.dtype == np.float64
    assert (values >= 0).all()


def test_explained_variance_does_not_depend_on_batches_or_training(bench: RunContext) -> None:
    whole = measure_explained_variance(bench.adapted, bench.calibration, bench.device, len(bench.calibration))
    batch = bench.calibration.batch(np.arange(len(bench.calibration)), bench.device)
    np.testing.assert_allclose(whole, explained_variance_ratio(bench.adapted, [batch]), rtol=1e-5)
    with torch.no_grad():
        for parameter in bench.adapted.trainable_parameters():
            parameter.add_(1.0)
    small = measure_explained_variance(bench.adapted, bench.calibration, bench.device, 3)
    np.testing.assert_allclose(small, whole, rtol=1e-5)
    assert (whole > 0).all()


def fill(bench: RunContext, size: float = 1.0) -> None:
    with torch.no_grad():
        for update in bench.adapted.updates.values():
            for part in (update.P, update.lam, update.Q):
                part.copy_(size * torch.randn(part.shape, generator=torch.Generator().manual_seed(1)))


def test_balanced_is_what_counts_on_the_way_and_at_the_end(bench: RunContext) -> None:
    fill(bench, 0.5)
    way, end, both = (
        measure(bench.adapted, bench.calibration, bench.device, 8)
        for measure in (measure_path, measure_importance, measure_balanced)
    )
    np.testing.assert_allclose(both**2, way * end, rtol=1e-6)
    assert (both > 0).all()
    way_share, end_share, share = (values / values.sum() for values in (way, end, both))
    assert np.abs(np.log(way_share / end_share)).max() > np.abs(np.log(way_share / share)).max()


def test_what_is_sure_and_right_of_every_sample_is_weighed_on_the_way(bench: RunContext) -> None:
    fill(bench, 0.5)
    with torch.no_grad():
        for tensor in bench.adapted.head_state().values():
            tensor.mul_(1e8)
    labels = predict(bench.adapted.model, bench.calibration, bench.device).logits.argmax(dim=1).numpy()
    data = copy.copy(bench.calibration)
    data.columns = {**data.columns, "labels": labels}
    way, end, both = (
        measure(bench.adapted, data, bench.device, 8)
        for measure in (measure_path, measure_importance, measure_balanced)
    )
    assert not end.any()
    assert way.any()
    np.testing.assert_array_equal(both, way)


def test_the_way_to_the_adapter_shares_out_all_that_it_changes(bench: RunContext) -> None:
    fill(bench, 0.5)
    with torch.no_grad():
        for tensor in bench.adapted.head_state().values():
            tensor.mul_(20.0)
    model, data, batch_size = bench.adapted.model, bench.calibration, len(bench.calibration)
    path = integrate_gates(bench.adapted, data, bench.device, batch_size, num_points=8)
    whole = evaluate(model, data, bench.device).loss
    bench.adapted.set_ranks([0] * 12)
    none = evaluate(model, data, bench.device).loss
    assert abs(none - whole) > 0.01
    assert path.taken.sum() == pytest.approx(none - whole, rel=1e-3)
    # Squares are at least the square of the mean, on the way as at its end.
    assert (path.squares >= path.taken**2 * (1 - 1e-9)).all()


def test_the_way_to_the_adapter_ends_where_it_was(bench: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(bench)
    was = [update.lam.detach().clone() for update in bench.adapted.updates.values()]
    weights = measure_path(bench.adapted, bench.calibration, bench.device, 8)
    assert weights.sum() == pytest.approx(1.0)

    def refuse(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("airlora.packing.importance._accumulate", refuse)
    with pytest.raises(KeyboardInterrupt):
        measure_path(bench.adapted, bench.calibration, bench.device, 8)
    for update, lam in zip(bench.adapted.updates.values(), was, strict=True):
        assert torch.equal(update.lam, lam)


def test_half_a_weight_is_what_is_taken_off_the_loss_half_the_squared_gradient(
    bench: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, squares = np.zeros((12, 4)), np.zeros((12, 4))
    taken[0, :3], squares[1, :2] = [3.0, 1.0, -7.0], [1.0, 4.0]

    def given(values: np.ndarray) -> None:
        path = PathGradients(values, squares)
        monkeypatch.setattr("airlora.packing.importance.integrate_gates", lambda *_args, **_options: path)

    given(taken)
    weights = measure_path(bench.adapted, bench.calibration, bench.device, 8)
    assert weights[0].tolist() == [0.375, 0.125, 0.0, 0.0]
    assert weights[1].tolist() == [0.1, 0.4, 0.0, 0.0]
    # Where nothing is taken off the loss the squares decide alone; an adapter of nothing weighs nothing.
    given(-np.abs(taken))
    assert measure_path(bench.adapted, bench.calibration, bench.device, 8)[1].tolist() == [0.2, 0.8, 0.0, 0.0]
    squares[:] = 0.0
    assert not measure_path(bench.adapted, bench.calibration, bench.device, 8).any()


def test_a_loss_rise_is_the_loss_without_the_component(bench: RunContext) -> None:
    fill(bench)
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
    bench: RunContext, monkeypatch: pytest.MonkeyPatch, num_samples: int
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
