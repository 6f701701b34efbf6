import numpy as np
import pytest
import torch

from airlora.ranks import RankPattern
from airlora.training import Settings, assemble, train_adalora
from airlora.training.adalora import _prune_to


@pytest.mark.parametrize("budget", [150, 400, 900])
def test_the_budget_in_numbers_is_kept(settings: Settings, budget: int) -> None:
    bench = assemble(settings)
    result = train_adalora(settings, bench.train, bench.eval, budget_params=budget, num_labels=2, steps=20)
    assert result.rank_pattern.names == tuple(bench.adapted.shapes)
    assert 0 < result.num_params <= budget
    assert result.num_params == result.rank_pattern.num_params(bench.adapted.shapes)
    assert result.evaluation.num_samples == len(bench.eval)
    # It uses its budget: what is left is less than two components of the largest module.
    assert budget - result.num_params < 2 * max(shape.params_per_rank for shape in bench.adapted.shapes.values()) + 60


def test_pefts_scale_is_ours(settings: Settings) -> None:
    # PEFT divides lora_alpha by the initial rank: alpha = scale * r_max leaves `scale`.
    from peft import AdaLoraConfig, get_peft_model

    from airlora.adapters import load_base_model

    model, _ = load_base_model(settings.model.name, num_labels=2, seed=0)
    name = "bert.encoder.layer.0.attention.self.query"
    config = AdaLoraConfig(
        init_r=4, target_r=1, lora_alpha=settings.adapter.scale * 4, total_step=10, target_modules=[name]
    )
    peft_model = get_peft_model(model, config)
    layer = peft_model.base_model.model.get_submodule(name)
    with torch.no_grad():
        layer.lora_E["default"].fill_(0.7)
    delta = layer.get_delta_weight("default")
    factors = layer.lora_B["default"] @ (layer.lora_A["default"] * layer.lora_E["default"])
    torch.testing.assert_close(delta, settings.adapter.scale * factors, rtol=1e-4, atol=1e-7)


def test_the_smallest_singular_values_go_first(settings: Settings) -> None:
    bench = assemble(settings)
    sites = list(bench.adapted.sites)[:2]

    class Layer(torch.nn.Module):
        def __init__(self, values: list[float]) -> None:
            super().__init__()
            self.lora_E = torch.nn.ParameterDict({"default": torch.tensor(values)[:, None]})

    layers = {sites[0].name: Layer([3.0, 0.0, -1.0]), sites[1].name: Layer([2.0, 0.5, 0.0])}

    class Base:
        def get_submodule(self, name: str) -> Layer:
            return layers[name]

    class Model:
        base_model = type("B", (), {"model": Base()})()

    size = sites[0].shape.params_per_rank
    assert size == sites[1].shape.params_per_rank
    pattern = _prune_to(Model(), sites, 2 * size)
    assert pattern == RankPattern({sites[0].name: 1, sites[1].name: 1})
    assert np.count_nonzero(layers[sites[0].name].lora_E["default"].detach().numpy()) == 1


def test_the_same_seed_gives_the_same_result(settings: Settings) -> None:
    bench = assemble(settings)
    results = [
        train_adalora(settings, bench.train, bench.eval, budget_params=400, num_labels=2, steps=10) for _ in range(2)
    ]
    assert results[0] == results[1]
