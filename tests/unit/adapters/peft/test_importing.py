from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from airlora.adapters import AdaptedModel, canonicalise, inject
from airlora.adapters.peft import export_peft, export_uniform, load_peft, peft_requirements, read_peft
from airlora.errors import AdapterError

Make = Callable[..., AdaptedModel]
Tiny = Callable[..., nn.Module]
Batch = dict[str, Tensor]
Train = Callable[..., Tensor]

FAMILIES = ("opt", "bert", "llama", "gpt2")
QUERY = "bert.encoder.layer.0.attention.self.query"


@torch.no_grad()
def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    logits: Tensor = model(**batch).logits
    return logits


def injected(base: nn.Module, folder: Path, **settings: Any) -> AdaptedModel:
    needs = peft_requirements(folder)
    settings = {"r_max": needs.r_max, "seed": 9} | settings
    return inject(base, target_modules=needs.target_modules, head_modules=needs.head_modules, **settings)


def assert_same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def assert_canonical(adapted: AdaptedModel) -> None:
    """Assert orthonormal P and Q, descending lam, and lam = 0 beyond the rank."""
    eye = torch.eye(adapted.r_max)
    for update in adapted.updates.values():
        lam = update.lam.detach()
        assert bool((lam >= 0).all())
        assert bool((lam.diff() <= 0).all())
        assert bool((lam[: update.rank] > 0).all())
        assert not lam[update.rank :].any()
        torch.testing.assert_close(update.P.T @ update.P, eye, rtol=0, atol=1e-5)
        torch.testing.assert_close(update.Q @ update.Q.T, eye, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4},
        {"r": 4, "use_rslora": True},
        {"r": 1, "lora_alpha": 3},
        {"r": 3, "rank_pattern": {"query|q_proj|c_attn": 5}, "alpha_pattern": {r".*\.1\..*": 2.5}},
        {"r": 3, "use_rslora": True, "rank_pattern": {"^.*0.*": 6}, "alpha_pattern": {"value|v_proj|mlp.c_proj": 1}},
    ],
    ids=["plain", "rslora", "rank-1", "patterns", "rslora-patterns"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_lora_of_peft_keeps_its_logits(
    family: str, settings: dict[str, Any], train: Train, tiny: Tiny, batch: Batch, tmp_path: Path
) -> None:
    expected = train(family, tmp_path, **settings)
    model = injected(tiny(family), tmp_path)
    load_peft(model, tmp_path)
    assert (expected - logits_of(tiny(family), batch)).abs().max() > 0.05
    assert_same(expected, logits_of(model.model, batch))
    assert_canonical(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_adalora_of_peft_keeps_its_logits_and_ranks(
    family: str, train: Train, tiny: Tiny, batch: Batch, tmp_path: Path
) -> None:
    expected = train(family, tmp_path, adalora=True)
    pattern = json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"]
    kept = {name.removesuffix(".lora_E"): sum(mask) for name, mask in pattern.items()}
    assert len(set(kept.values())) > 1
    model = injected(tiny(family), tmp_path)
    load_peft(model, tmp_path)
    assert model.rank_pattern.to_dict() == {site.name: kept[site.module_name] for site in model.sites}
    assert_same(expected, logits_of(model.model, batch))
    reloaded = PeftModel.from_pretrained(tiny(family), str(tmp_path)).eval()
    del batch["labels"]  # With labels, PEFT adds a penalty that needs a model in training mode.
    assert_same(logits_of(reloaded, batch), logits_of(model.model, batch))
    assert_canonical(model)


def test_adalora_before_pruning_keeps_its_initial_rank(train: Train, tiny: Tiny, batch: Batch, tmp_path: Path) -> None:
    expected = train("bert", tmp_path, adalora=True, tinit=100, total_step=200, lora_alpha=5)
    model = injected(tiny("bert"), tmp_path)
    load_peft(model, tmp_path)
    assert model.r_max == 6
    assert_same(expected, logits_of(model.model, batch))


@pytest.mark.parametrize("r_max", [1, 4])
def test_export_and_import_keep_ranks_and_logits(
    family: str, r_max: int, adapted: Make, tiny: Tiny, batch: Batch, tmp_path: Path
) -> None:
    written = adapted(family, r_max=r_max, scale=0.6)
    written.set_ranks([index % (r_max + 1) for index in range(len(written.sites))])
    with torch.no_grad():
        for parameter in written.head_parameters():
            parameter.add_(0.5)
    export_peft(written, tmp_path, base_model="some/base")
    needs = peft_requirements(tmp_path)
    assert (needs.r_max, needs.base_model, needs.task) == (r_max, "some/base", "SEQ_CLS")
    assert needs.num_labels == 2
    assert needs.head_modules is not None
    assert sorted(needs.head_modules) == sorted(written.head_names)
    read = inject(tiny(family), r_max=r_max, seed=4, scale=1.7)
    load_peft(read, tmp_path)
    assert read.rank_pattern == written.rank_pattern
    assert_same(logits_of(written.model, batch), logits_of(read.model, batch))
    assert_canonical(read)


def test_exporting_an_imported_adapter_gives_the_same_tensors(adapted: Make, tiny: Tiny, tmp_path: Path) -> None:
    written = adapted("gpt2")
    canonicalise(written)
    written.set_ranks([index % 5 for index in range(len(written.sites))])
    export_peft(written, tmp_path / "a", base_model="base")
    read = inject(tiny("gpt2"), r_max=4, seed=4)
    load_peft(read, tmp_path / "a")
    export_peft(read, tmp_path / "b", base_model="base")
    a, b = (load_file(tmp_path / name / "adapter_model.safetensors") for name in "ab")
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=0, atol=1e-5)


def test_zero_padding_does_not_count_as_rank(adapted: Make, tiny: Tiny, batch: Batch, tmp_path: Path) -> None:
    written = adapted("llama")
    export_uniform(written, tmp_path, for_="vllm", base_model="base")
    needs = peft_requirements(tmp_path)
    assert (needs.r_max, needs.head_modules, needs.num_labels) == (4, None, None)
    read = inject(tiny("llama"), r_max=4, seed=4)
    load_peft(read, tmp_path)
    assert_same(logits_of(written.model, batch), logits_of(read.model, batch))


def test_untrained_lora_has_rank_zero(train: Train, tiny: Tiny, batch: Batch, tmp_path: Path) -> None:
    expected = train("bert", tmp_path, steps=0, r=4)
    model = injected(tiny("bert"), tmp_path)
    assert model.r_max == 1
    load_peft(model, tmp_path)
    assert set(model.rank_pattern.ranks) == {0}
    assert_same(expected, logits_of(model.model, batch))


def test_rank_above_the_dimensions_is_reduced(train: Train, tiny: Tiny, batch: Batch, tmp_path: Path) -> None:
    expected = train("llama", tmp_path, r=40)
    assert peft_requirements(tmp_path).r_max == 32
    needs = peft_requirements(tmp_path)
    model = inject(tiny("llama"), r_max=16, seed=0, target_modules=needs.target_modules)
    with pytest.raises(AdapterError, match="at most r_max, 16"):
        load_peft(model, tmp_path)
    only_queries = train("llama", tmp_path, r=40, target_modules=["q_proj", "up_proj"])
    model = injected(tiny("llama"), tmp_path)
    load_peft(model, tmp_path)
    assert not torch.equal(expected, only_queries)
    assert_same(only_queries, logits_of(model.model, batch))


def test_model_may_have_more_modules_and_a_larger_r_max(train: Train, tiny: Tiny, batch: Batch, tmp_path: Path) -> None:
    expected = train("bert", tmp_path, r=2)
    model = inject(tiny("bert"), r_max=8, seed=0, scale=0.25)
    with torch.no_grad():
        for update in model.updates.values():
            update.lam.fill_(1.0)
    load_peft(model, tmp_path)
    assert_same(expected, logits_of(model.model, batch))
    assert_canonical(model)
    ranks = [rank for name, rank in model.rank_pattern.items() if "intermediate" in name]
    assert ranks == [0, 0]
    model.set_ranks([8] * len(model.sites))
    assert_same(expected, logits_of(model.model, batch))


def test_read_peft_returns_scaled_factors_and_head(train: Train, tmp_path: Path) -> None:
    train("bert", tmp_path, r=2, lora_alpha=10, target_modules=["query"])
    adapter = read_peft(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    B, A = adapter.factors[QUERY]
    torch.testing.assert_close(B, 5 * tensors[f"base_model.model.{QUERY}.lora_B.weight"])
    torch.testing.assert_close(A, tensors[f"base_model.model.{QUERY}.lora_A.weight"])
    assert len(adapter.factors) == 2
    assert sorted(adapter.head) == ["classifier.bias", "classifier.weight"]
    assert adapter.head_modules == ("classifier",)
    assert adapter.task == "SEQ_CLS"


def test_scaling_of_adalora_uses_the_initial_rank(train: Train, tmp_path: Path) -> None:
    train("bert", tmp_path, adalora=True, lora_alpha=10)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    for module, (B, _) in read_peft(tmp_path).factors.items():
        stored, E = (tensors[f"base_model.model.{module}.lora_{which}"] for which in "BE")
        torch.testing.assert_close(B, stored * E.T * 10 / (6 + 1e-5), rtol=5e-7, atol=0)


def test_half_precision_files_are_read(train: Train, tiny: Tiny, batch: Batch, tmp_path: Path) -> None:
    expected = train("bert", tmp_path, r=2)
    path = tmp_path / "adapter_model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    model = injected(tiny("bert"), tmp_path)
    load_peft(model, tmp_path)
    torch.testing.assert_close(expected, logits_of(model.model, batch), rtol=0.05, atol=0.05)


def test_other_modules_to_save_become_head_modules(train: Train, tiny: Tiny, batch: Batch, tmp_path: Path) -> None:
    expected = train("bert", tmp_path, modules_to_save=["pooler"])
    assert peft_requirements(tmp_path).head_modules == ("bert.pooler", "classifier")
    model = injected(tiny("bert"), tmp_path)
    load_peft(model, tmp_path)
    assert_same(expected, logits_of(model.model, batch))
