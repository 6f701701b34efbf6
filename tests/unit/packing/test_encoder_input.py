from collections.abc import Callable

import numpy as np
import pytest
import torch

from airlora.adapters import components_of
from airlora.errors import SettingsError
from airlora.packing import IMPORTANCE_MEASURES, make_encoder_input, measure_importance
from airlora.training import RunContext, Settings, build_context


@pytest.fixture(scope="module")
def bench(make_settings: Callable[..., Settings]) -> RunContext:
    bench = build_context(make_settings())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for update in bench.adapted.updates.values():
            update.lam.copy_(0.3 * torch.randn(update.lam.shape, generator=generator))
    return bench


@pytest.mark.parametrize("importance", IMPORTANCE_MEASURES)
def test_importance_follows_the_measure_and_sums_to_one(bench: RunContext, settings: Settings, importance: str) -> None:
    compute = settings.compute_options(bench.device)
    bench.adapted.set_ranks([3] * 12)
    found = make_encoder_input(bench.adapted, importance, compute, calibration=bench.calibration)
    assert set(bench.adapted.rank_pattern.ranks) == {3}
    weights = np.stack([own.importance for own in found.updates.values()])
    values = measure_importance(bench.adapted, bench.calibration, bench.device, compute.batch_size, importance)
    assert weights.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(weights, values / values.sum(), rtol=1e-6)
    assert sum(own.importance for own in found.head.values()) == pytest.approx(1.0)
    assert found.has_metrics == (importance != "singular_value")


def test_the_input_does_not_change_with_the_model(bench: RunContext, settings: Settings) -> None:
    found = make_encoder_input(bench.adapted, "singular_value", settings.compute_options(bench.device))
    name, value = next(iter(bench.adapted.head_state().items()))
    before = found.head[name].values.copy()
    with torch.no_grad():
        value.add_(1.0)
    np.testing.assert_array_equal(found.head[name].values, before)
    with torch.no_grad():
        value.sub_(1.0)


def test_components_beyond_the_rank_of_the_update_are_left_out(bench: RunContext, settings: Settings) -> None:
    bench.adapted.set_ranks([4] * 12)
    name, update = next(iter(bench.adapted.updates.items()))
    values = update.lam.detach().clone()
    with torch.no_grad():
        update.lam[1:] = 0.0
    found = make_encoder_input(bench.adapted, "singular_value", settings.compute_options(bench.device))
    assert found.updates[name].V.shape[0] == 1
    with torch.no_grad():
        update.lam.copy_(values)


def test_without_data_only_singular_values_are_a_measure(bench: RunContext, settings: Settings) -> None:
    compute = settings.compute_options(bench.device)
    found = make_encoder_input(bench.adapted, "singular_value", compute)
    squares = np.concatenate([module.singular_values**2 for module in components_of(bench.adapted).values()])
    weights = np.concatenate([own.importance for own in found.updates.values()])
    np.testing.assert_allclose(weights, squares / squares.sum())
    with pytest.raises(SettingsError, match="'taylor' needs calibration data"):
        make_encoder_input(bench.adapted, "taylor", compute)
