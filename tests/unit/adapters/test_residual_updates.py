"""Updates of FFN projections that act on the residual stream (`ffn_update="residual"`)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from airlora.adapters import (
    AdaptedModel,
    SVDLayer,
    SVDResidualLinear,
    SVDUpdate,
    align_to_gradient,
    base_fingerprint,
    components_of,
    dense_reference,
    explained_variance_ratio,
    find_projections,
    inject,
    load_adapter,
    save_adapter,
)
from airlora.adapters.peft import export_peft, load_peft, peft_requirements
from airlora.errors import AdapterError, ModelError, RankPatternError
from airlora.ranks import ModuleShape

Make = Callable[..., AdaptedModel]
Tiny = Callable[..., nn.Module]
Batch = dict[str, Tensor]


@torch.no_grad()
def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    logits: Tensor = model(**batch).logits
    return logits


def mixed(adapted: AdaptedModel) -> AdaptedModel:
    adapted.set_ranks([index % (adapted.r_max + 1) for index in range(len(adapted.sites))])
    return adapted


@pytest.fixture
def residual(adapted: Make) -> Make:
    """`adapted(family)` with the FFN's updates on the residual side."""

    def make(name: str, **settings: object) -> AdaptedModel:
        return adapted(name, ffn_update="residual", **settings)

    return make


def test_only_ffn_sites_move_to_the_residual_side(family: str, tiny: Tiny) -> None:
    plain, sites = (find_projections(tiny(family), ffn_update=kind) for kind in ("weight", "residual"))
    assert [(site.role, site.layer, site.module_name) for site in sites] == [
        (site.role, site.layer, site.module_name) for site in plain
    ]
    for site, other in zip(sites, plain, strict=True):
        if site.role in ("fc1", "fc2"):
            assert site.suffix == {"fc1": "in", "fc2": "out"}[site.role]
            assert site.name == f"{other.name}.{site.suffix}"
            assert site.shape == ModuleShape(32, 32)
        else:
            assert site == other


def test_projections_that_keep_the_width_keep_their_updates_on_the_weight() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=60)
    model = BertForSequenceClassification(config)
    assert find_projections(model, ffn_update="residual") == find_projections(model)


def test_zero_updates_keep_the_logits(family: str, tiny: Tiny, batch: Batch) -> None:
    model = tiny(family)
    before = logits_of(model, batch)
    fingerprint = base_fingerprint(model)
    adapted = inject(model, r_max=4, seed=0, ffn_update="residual")
    torch.testing.assert_close(logits_of(model, batch), before, rtol=0, atol=1e-6)
    assert base_fingerprint(model) == fingerprint
    assert torch.equal(logits_of(adapted.eject(), batch), before)


def test_residual_updates_are_low_rank_updates_of_the_weight(family: str, residual: Make, batch: Batch) -> None:
    model = residual(family, scale=0.5)
    model.set_ranks([0] * len(model.sites))
    base = logits_of(model.model, batch)
    for ranks in ([1] * len(model.sites), [4] * len(model.sites), [index % 5 for index in range(len(model.sites))]):
        model.set_ranks(ranks)
        reference = dense_reference(model)
        assert not any(isinstance(module, SVDLayer) for module in reference.modules())
        logits = logits_of(model.model, batch)
        change = float((logits - base).abs().max())
        assert change > 1e-5
        assert float((logits - logits_of(reference, batch)).abs().max()) < 5e-3 * change
    for module in model.model.modules():
        if isinstance(module, SVDResidualLinear) and module.update.rank:
            B, A = module.factors()
            assert B.shape[1] == A.shape[0] == module.update.rank
            assert torch.equal(B @ A, module.dense())


@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 6), lambda: nn.Linear(4, 6, bias=False), lambda: Conv1D(6, 4)])
@pytest.mark.parametrize("side", ["in", "out"])
def test_weight_of_a_residual_layer_by_hand(make: Callable[[], nn.Module], side: str) -> None:
    torch.manual_seed(0)
    base, width = make(), {"in": 4, "out": 6}[side]
    update = SVDUpdate(width, width, 2, scale=0.7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        update.lam.copy_(torch.tensor([1.0, -2.0]))
    layer, x = SVDResidualLinear(base, update, side), torch.randn(3, 4)  # type: ignore[arg-type]
    change, bias = torch.eye(width) + update.dense(), base(torch.zeros(1, 4))
    weight = (base(torch.eye(4)) - bias).T
    changed = weight @ change if side == "in" else change @ weight
    torch.testing.assert_close(layer(x), x @ changed.T + bias)
    torch.testing.assert_close(layer.dense().float(), changed - weight)
    with pytest.raises(RankPatternError, match="shape of the update"):
        SVDResidualLinear(base, SVDUpdate(5, 5, 2, generator=torch.Generator()), side)  # type: ignore[arg-type]


def test_initialisation_uses_the_gradient_of_the_residual_update(residual: Make, batch: Batch) -> None:
    """The gradient is W0^T dL/dW on the input side and dL/dW W0^T on the output side."""
    model = residual("bert", scale=1.0)
    with torch.no_grad():
        for update in model.updates.values():
            update.lam.zero_()
    reference = dense_reference(model)
    for parameter in reference.parameters():
        parameter.requires_grad_(True)
    reference(**batch).loss.backward()
    align_to_gradient(model.updates, (model.model(**batch).loss.backward() for _ in range(1)))
    for site in model.sites:
        layer = reference.get_submodule(site.module_name)
        gradient, weight = layer.weight.grad, layer.weight.detach()
        expected = {"in": weight.T @ gradient, "out": gradient @ weight.T}.get(site.suffix or "", gradient)
        update = model.updates[site.name]
        found = update.P[:, 0] @ expected @ update.Q[0]
        torch.testing.assert_close(found.abs(), torch.linalg.svdvals(expected)[0], rtol=1e-3, atol=1e-7)


def test_stock_peft_gives_the_same_logits(
    family: str, residual: Make, tiny: Tiny, batch: Batch, tmp_path: Path
) -> None:
    model = mixed(residual(family, scale=0.7))
    written = export_peft(model, tmp_path, base_model="base")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)
        loaded = PeftModel.from_pretrained(tiny(family), str(tmp_path)).eval()
    assert written.rank >= 4
    torch.testing.assert_close(logits_of(loaded, batch), logits_of(model.model, batch), rtol=0, atol=1e-5)


def test_export_after_eject_is_refused(residual: Make, tmp_path: Path) -> None:
    model = residual("bert")
    model.eject()
    with pytest.raises(ModelError, match="has been removed"):
        export_peft(model, tmp_path, base_model="base")
    assert not list(tmp_path.iterdir())


def test_peft_adapter_of_weight_updates_is_refused(residual: Make, tiny: Tiny, tmp_path: Path) -> None:
    export_peft(residual("bert"), tmp_path, base_model="base")
    needs = peft_requirements(tmp_path)
    plain = inject(tiny("bert"), r_max=needs.r_max, seed=0)
    load_peft(plain, tmp_path)
    with pytest.raises(AdapterError, match="dense"):
        load_peft(inject(tiny("bert"), r_max=needs.r_max, seed=0, ffn_update="residual"), tmp_path)


def test_adapter_file_loads_only_into_the_same_form_of_update(
    residual: Make, adapted: Make, tmp_path: Path, batch: Batch
) -> None:
    model, again = mixed(residual("bert")), residual("bert", seed=3)
    save_adapter(model, tmp_path / "a", settings={})
    assert not torch.equal(logits_of(again.model, batch), logits_of(model.model, batch))
    load_adapter(again, tmp_path / "a")
    assert torch.equal(logits_of(again.model, batch), logits_of(model.model, batch))
    with pytest.raises(AdapterError, match="adapts other modules"):
        load_adapter(adapted("bert"), tmp_path / "a")


def test_components_and_explained_variance_of_residual_updates(residual: Make, adapted: Make, batch: Batch) -> None:
    model = residual("gpt2")
    components = components_of(model)
    for site in model.sites:
        expected = np.linalg.svd(model.updates[site.name].dense().detach().numpy(), compute_uv=False)[:4]
        np.testing.assert_allclose(components[site.name].singular_values, expected, rtol=1e-4)
    plain = explained_variance_ratio(adapted("gpt2"), [batch])
    np.testing.assert_allclose(explained_variance_ratio(model, [batch]), plain, rtol=1e-9)
