import numpy as np
import pytest
import torch
from peft import AdaLoraConfig, get_peft_model

from airlora.adapters import load_base_model
from airlora.errors import SettingsError, TrainingError
from airlora.ranks import RankPattern
from airlora.training import (
    Settings,
    build_context,
    measure_peft_baseline,
    train_adalora,
    train_adalora_sweep,
    train_baseline,
)
from airlora.training.peft_baselines import BASELINE_BITS, _orthogonality, _prune_to, _rounded

BUDGETS = [150, 900]


@pytest.fixture
def two_threads(settings: Settings) -> Settings:
    return settings.model_copy(update={"num_threads": 2})


@pytest.mark.parametrize("budget", [150, 400, 900])
def test_adalora_keeps_its_budget_of_parameters(settings: Settings, budget: int) -> None:
    context = build_context(settings)
    result = train_adalora(settings, context.train, context.eval, budget_params=budget, steps=20)
    assert result.rank_pattern.names == tuple(context.adapted.shapes)
    assert 0 < result.num_params <= budget
    assert result.num_params == result.rank_pattern.num_params(context.adapted.shapes)
    assert result.evaluation.num_samples == len(context.eval)
    # It uses its budget: the remainder is less than two components of the largest module.
    largest = max(shape.params_per_rank for shape in context.adapted.shapes.values())
    assert budget - result.num_params < 2 * largest + 60


def test_lora_alpha_gives_pefts_update_the_scale_of_the_settings(settings: Settings) -> None:
    # PEFT divides lora_alpha by the initial rank: alpha = scale * r_max leaves `scale`.
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


def test_adalora_s_penalty_is_what_peft_adds_to_a_loss_of_labels(settings: Settings) -> None:
    model, _ = load_base_model(settings.model.name, num_labels=2, seed=0)
    names = [f"bert.encoder.layer.0.attention.self.{name}" for name in ("query", "key")]
    config = AdaLoraConfig(init_r=4, target_r=1, total_step=10, target_modules=names)
    peft_model = get_peft_model(model, config).eval()
    inputs = {"input_ids": torch.tensor([[2, 3, 4]]), "labels": torch.tensor([1])}
    with_penalty = peft_model.base_model(**inputs).loss
    without = torch.nn.functional.cross_entropy(peft_model(input_ids=inputs["input_ids"]).logits, inputs["labels"])
    torch.testing.assert_close(_orthogonality(peft_model), with_penalty - without)
    assert float(_orthogonality(peft_model)) > 0.1


def test_adalora_starts_at_one_and_a_half_times_its_rank_but_not_above_r_max(settings: Settings) -> None:
    context = build_context(settings)
    per_rank = sum(shape.params_per_rank for shape in context.adapted.shapes.values())
    for budget, rank in ((per_rank, 2), (2 * per_rank, 3), (99 * per_rank, settings.adapter.r_max)):
        trained = train_baseline(settings, context.train, method="adalora", budget_params=budget, steps=2)
        (factor,) = {len(module.lora_E["default"]) for module in trained.model.modules() if hasattr(module, "lora_E")}
        assert factor == rank


def test_the_smallest_singular_values_are_pruned_first(settings: Settings) -> None:
    context = build_context(settings)
    sites = list(context.adapted.sites)[:2]

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


def test_a_sweep_in_processes_gives_the_results_of_single_trainings(settings: Settings, two_threads: Settings) -> None:
    context = build_context(settings)
    counts: list[int] = []
    data = context.train, context.eval
    expected = [train_adalora(settings, *data, budget_params=budget, steps=8) for budget in BUDGETS]
    for chosen in (settings, two_threads):
        counts.clear()
        results = train_adalora_sweep(chosen, *data, budgets_params=BUDGETS, steps=8, on_step=counts.append)
        assert results == expected
        assert counts == sorted(counts)
        assert counts[-1] == 16


def test_a_loss_that_is_not_finite_is_refused(settings: Settings) -> None:
    finetune = settings.finetune.model_copy(update={"adalora_learning_rate": 1e30})
    context = build_context(settings)
    with pytest.raises(TrainingError, match=r"loss = nan at step \d+"):
        train_adalora(
            settings.model_copy(update={"finetune": finetune}), context.train, context.eval, budget_params=900, steps=99
        )


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_every_precision_is_measured_with_its_payload(settings: Settings, method: str) -> None:
    context = build_context(settings)
    points = measure_peft_baseline(settings, context.train, context.eval, method=method, rank=2, steps=20)
    assert [point.bits for point in points] == list(BASELINE_BITS)
    assert len({point.num_components for point in points}) == 1
    full = points[0]
    per_rank = [shape.d_in + shape.d_out for shape in context.adapted.shapes.values()]
    num_head = sum(value.numel() for value in context.adapted.head_state().values())
    if method == "lora":
        assert full.num_components == 2 * len(per_rank)
        assert full.payload_bytes == 4 * (2 * sum(per_rank) + num_head)
    else:
        assert 0 < full.num_components <= 2 * len(per_rank)
        assert full.payload_bytes <= 4 * (full.num_components * max(per_rank) + num_head)
    for point in points[1:]:
        share = (point.payload_bytes - full.payload_bytes * point.bits / 32) / full.payload_bytes
        assert 0 < share < 0.1
    rises = [abs(point.evaluation.loss - full.evaluation.loss) for point in points]
    assert rises[1] < 0.05
    assert rises[1] <= rises[2] + 0.01


@pytest.mark.parametrize("method", ["lora", "rslora", "adalora"])
def test_a_baseline_keeps_its_budget_and_predicts(settings: Settings, method: str) -> None:
    context = build_context(settings)
    trained = train_baseline(settings, context.train, method=method, budget_params=900, steps=6)
    assert tuple(trained.rank_pattern.names) == tuple(context.adapted.shapes)
    assert 0 < trained.num_params <= 900
    if method == "adalora":
        assert trained.num_params == trained.rank_pattern.num_params(context.adapted.shapes)
        assert trained.prune(300).num_params(context.adapted.shapes) <= 300
        assert trained.num_params <= 300
    else:
        (rank,) = set(trained.rank_pattern.ranks)
        sizes = sum(shape.d_in + shape.d_out for shape in context.adapted.shapes.values())
        assert trained.num_params == rank * sizes
        assert (rank + 1) * sizes > 900
        with pytest.raises(SettingsError, match=f"baseline to prune = '{method}': allowed is adalora"):
            trained.prune(300)
    assert trained.predict(context.eval).evaluation.num_samples == len(context.eval)


@pytest.mark.parametrize("rank", [1, 4])
def test_rslora_has_the_scale_of_the_settings_at_rank_8_and_falls_with_the_root(settings: Settings, rank: int) -> None:
    context = build_context(settings)
    budget = rank * sum(shape.d_in + shape.d_out for shape in context.adapted.shapes.values())
    trained = train_baseline(settings, context.train, method="rslora", budget_params=budget, steps=1)
    layer = trained.model.base_model.model.get_submodule(trained.sites[0].name)
    assert layer.scaling["default"] == pytest.approx(settings.adapter.scale * (8 / rank) ** 0.5)


def test_the_same_seed_gives_the_same_points(settings: Settings) -> None:
    context = build_context(settings)
    first, second = (
        measure_peft_baseline(settings, context.train, context.eval, method="lora", rank=1, steps=5) for _ in range(2)
    )
    assert first == second


def test_rounding_errs_by_half_a_step_of_its_slice() -> None:
    values = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [10.0], [0.0]])
    for axis, largest in ((0, values.abs().amax(dim=1, keepdim=True)), (1, values.abs().amax(dim=0, keepdim=True))):
        rounded = _rounded(values, 4, axis)
        assert bool(((rounded - values).abs() <= 0.501 * largest / 7).all())
        assert not torch.equal(rounded, values)
    assert bool((_rounded(values[0], 8, 0) - values[0]).abs().max() <= 0.51 * values[0].abs().max() / 127)


@pytest.mark.parametrize(
    ("method", "rank", "message"),
    [("dora", 2, "baseline = 'dora': allowed is one of lora, rslora, adalora"), ("lora", 0, "rank of a baseline = 0")],
)
def test_an_unknown_baseline_is_refused(settings: Settings, method: str, rank: int, message: str) -> None:
    context = build_context(settings)
    with pytest.raises(SettingsError, match=message):
        measure_peft_baseline(settings, context.train, context.eval, method=method, rank=rank, steps=1)
