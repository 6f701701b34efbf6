import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from airlora.adapters import components_of, explained_variance_ratio
from airlora.errors import SettingsError
from airlora.packing import IMPORTANCE_MEASURES, Packing, measure_explained_variance, measure_importance
from airlora.packing.importance import (
    ABLATION_FLOOR,
    GateIntegrals,
    ablation,
    balanced_gradient,
    integrate_gates,
    integrated_gradient,
    loss_increases,
    singular_value,
    singular_value_gradient,
    squared_gradient,
)
from airlora.tasks import evaluate, predict
from airlora.training import RunContext, Settings, build_context


@pytest.fixture
def bench(settings: Settings) -> RunContext:
    return build_context(settings)


@pytest.mark.parametrize(
    "measure", [*(own.function for own in IMPORTANCE_MEASURES.values()), measure_explained_variance]
)
def test_a_measure_returns_one_number_per_component(bench: RunContext, measure: Callable[..., np.ndarray]) -> None:
    values = measure(bench.adapted, bench.calibration, bench.device, 8)
    assert values.shape == (12, 4)
    assert values.dtype == np.float64
    assert (values >= 0).all()


def test_measures_are_found_by_name_and_the_default_is_the_squared_gradient(bench: RunContext) -> None:
    fill(bench)
    arguments = bench.adapted, bench.calibration, bench.device, 8
    for name, own in IMPORTANCE_MEASURES.items():
        np.testing.assert_array_equal(measure_importance(*arguments, name), own.function(*arguments))
    np.testing.assert_array_equal(measure_importance(*arguments), squared_gradient(*arguments))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("luck", "allowed is one of integrated_gradient, .*singular_value"),
        ("path", "allowed is its new name integrated_gradient"),
        ("gradient", "allowed is its new name squared_gradient"),
        ("balanced", "allowed is its new name balanced_gradient"),
        ("combined", "allowed is its new name singular_value_gradient"),
        ("measured", "allowed is its new name ablation"),
        ("singular", "allowed is its new name singular_value$"),
    ],
)
def test_unknown_and_former_names_are_refused(name: str, words: str) -> None:
    with pytest.raises(SettingsError, match=f"importance = '{name}': {words}"):
        Packing(importance=name)


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
            for values in (update.P, update.lam, update.Q):
                values.copy_(size * torch.randn(values.shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(
    ("mean", "one", "other"),
    [
        (balanced_gradient, integrated_gradient, squared_gradient),
        (singular_value_gradient, singular_value, squared_gradient),
    ],
)
def test_a_combined_measure_is_the_geometric_mean_of_two(
    bench: RunContext, mean: Callable[..., np.ndarray], one: Callable[..., np.ndarray], other: Callable[..., np.ndarray]
) -> None:
    fill(bench, 0.5)
    found, first, second = (
        measure(bench.adapted, bench.calibration, bench.device, 8) for measure in (mean, one, other)
    )
    np.testing.assert_allclose(found**2, first * second, rtol=1e-6)


def test_singular_values_include_the_scale_of_the_adapter(bench: RunContext) -> None:
    fill(bench)
    found = singular_value(bench.adapted, bench.calibration, bench.device, 8)
    wanted = [module.singular_values**2 for module in components_of(bench.adapted).values()]
    np.testing.assert_allclose(found, wanted)
    norms = [
        float(bench.adapted.scale**2 * torch.linalg.matrix_norm((update.P * update.lam @ update.Q).detach()) ** 2)
        for update in bench.adapted.updates.values()
    ]
    np.testing.assert_allclose(found.sum(axis=1), norms, rtol=1e-5)


def test_balanced_gradient_without_gradients_at_the_end_is_the_integrated_gradient(bench: RunContext) -> None:
    fill(bench, 0.5)
    with torch.no_grad():
        for tensor in bench.adapted.head_state().values():
            tensor.mul_(1e8)
    labels = predict(bench.adapted.model, bench.calibration, bench.device).logits.argmax(dim=1).numpy()
    data = copy.copy(bench.calibration)
    data.columns = {**data.columns, "labels": labels}
    integrated, squared, balanced = (
        measure(bench.adapted, data, bench.device, 8)
        for measure in (integrated_gradient, squared_gradient, balanced_gradient)
    )
    assert not squared.any()
    assert integrated.any()
    np.testing.assert_array_equal(balanced, integrated)


def test_integrated_losses_sum_to_the_loss_that_the_adapter_removes(bench: RunContext) -> None:
    fill(bench, 0.5)
    with torch.no_grad():
        for tensor in bench.adapted.head_state().values():
            tensor.mul_(20.0)
    model, data, batch_size = bench.adapted.model, bench.calibration, len(bench.calibration)
    integrals = integrate_gates(bench.adapted, data, bench.device, batch_size, num_points=8)
    whole = evaluate(model, data, bench.device).loss
    bench.adapted.set_ranks([0] * 12)
    none = evaluate(model, data, bench.device).loss
    assert abs(none - whole) > 0.01
    assert integrals.loss.sum() == pytest.approx(none - whole, rel=1e-3)
    # The mean of squares is at least the square of the mean.
    assert (integrals.squared >= integrals.loss**2 * (1 - 1e-9)).all()


def test_the_adapter_keeps_its_values_even_if_a_pass_fails(bench: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(bench)
    before = [update.lam.detach().clone() for update in bench.adapted.updates.values()]
    importance = integrated_gradient(bench.adapted, bench.calibration, bench.device, 8)
    assert importance.sum() == pytest.approx(1.0)

    def refuse(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("airlora.packing.importance._gate_gradients", refuse)
    with pytest.raises(KeyboardInterrupt):
        integrated_gradient(bench.adapted, bench.calibration, bench.device, 8)
    for update, lam in zip(bench.adapted.updates.values(), before, strict=True):
        assert torch.equal(update.lam, lam)


def test_removed_loss_and_squared_gradient_have_equal_shares_of_the_integrated_gradient(
    bench: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, squared = np.zeros((12, 4)), np.zeros((12, 4))
    loss[0, :3], squared[1, :2] = [3.0, 1.0, -7.0], [1.0, 4.0]

    def measured(values: np.ndarray) -> np.ndarray:
        integrals = GateIntegrals(values, squared)
        monkeypatch.setattr("airlora.packing.importance.integrate_gates", lambda *_args, **_options: integrals)
        return integrated_gradient(bench.adapted, bench.calibration, bench.device, 8)

    importance = measured(loss)
    assert importance[0].tolist() == [0.375, 0.125, 0.0, 0.0]
    assert importance[1].tolist() == [0.1, 0.4, 0.0, 0.0]
    # Squared gradients decide alone if no component removes loss. An adapter of zeros has no importance.
    assert measured(-np.abs(loss))[1].tolist() == [0.2, 0.8, 0.0, 0.0]
    squared[:] = 0.0
    assert not measured(-np.abs(loss)).any()


def test_ablation_is_the_share_of_the_loss_increase_with_a_floor(
    bench: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(bench)
    increases = np.zeros((12, 4))
    increases[0, :3] = [0.3, -0.1, 0.1]
    monkeypatch.setattr("airlora.packing.importance.loss_increases", lambda *_: increases)
    found = ablation(bench.adapted, bench.calibration, bench.device, 8)
    squares = singular_value(bench.adapted, bench.calibration, bench.device, 8)
    wanted = ABLATION_FLOOR * squares / squares.sum()
    wanted[0, :3] += [0.75, 0.0, 0.25]
    np.testing.assert_allclose(found, wanted)


def test_a_loss_increase_is_the_loss_without_the_component(bench: RunContext) -> None:
    fill(bench)
    increases = loss_increases(bench.adapted, bench.calibration, bench.device, 5, num_samples=10_000)
    update = list(bench.adapted.updates.values())[3]
    whole = evaluate(bench.adapted.model, bench.calibration, bench.device).loss
    before = update.lam.detach().clone()
    with torch.no_grad():
        update.lam[2] = 0.0
    without = evaluate(bench.adapted.model, bench.calibration, bench.device).loss
    assert increases[3, 2] == pytest.approx(without - whole, abs=1e-5)
    assert abs(increases[3, 2]) > 1e-4
    # A component of zero changes no loss, and the adapter keeps its values.
    assert loss_increases(bench.adapted, bench.calibration, bench.device, 5)[3, 2] == pytest.approx(0.0, abs=1e-6)
    assert update.lam.detach()[[0, 1, 3]].tolist() == before[[0, 1, 3]].tolist()


@pytest.mark.parametrize("num_samples", [1, 7, 15, 10_000])
def test_samples_for_loss_increases_span_all_lengths(
    bench: RunContext, monkeypatch: pytest.MonkeyPatch, num_samples: int
) -> None:
    data, taken = bench.calibration, []
    whole = type(data).batch

    def spy(self: object, indices: np.ndarray, device: torch.device) -> dict[str, torch.Tensor]:
        taken.extend(indices.tolist())
        return whole(data, indices, device)

    monkeypatch.setattr(type(data), "batch", spy)
    loss_increases(bench.adapted, data, bench.device, 8, num_samples=num_samples)
    assert len(set(taken)) == len(taken) == min(num_samples, len(data))
    if num_samples > 1:
        lengths = data.lengths[taken]
        assert (lengths.min(), lengths.max()) == (data.lengths.min(), data.lengths.max())
