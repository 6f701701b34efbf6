from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel, PeftModelForSequenceClassification
from safetensors.torch import load_file
from torch import Tensor, nn

from airlora.adapters import AdaptedModel, inject
from airlora.adapters.peft import export_peft, export_uniform
from airlora.errors import AdapterError, ModelError, RankPatternError, SettingsError, StorageError

Make = Callable[..., AdaptedModel]
Tiny = Callable[..., nn.Module]
Batch = dict[str, Tensor]

NAMES = ("adapter_config.json", "adapter_model.safetensors")


def mixed(adapted: AdaptedModel) -> AdaptedModel:
    """Set every rank from 0 to r_max and change the head."""
    adapted.set_ranks([index % (adapted.r_max + 1) for index in range(len(adapted.sites))])
    with torch.no_grad():
        for parameter in adapted.head_parameters():
            parameter.add_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape))
    return adapted


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return config


def through_peft(base: nn.Module, folder: Path, batch: Batch) -> Tensor:
    with warnings.catch_warnings():
        # PEFT only warns of missing keys and of patterns that match no module.
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)
        model = PeftModel.from_pretrained(base, str(folder))
    with torch.no_grad():
        logits: Tensor = model.eval()(**batch).logits
    return logits


@torch.no_grad()
def logits_of(adapted: AdaptedModel, batch: Batch) -> Tensor:
    logits: Tensor = adapted.model(**batch).logits
    return logits


def assert_same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_peft_loads_the_export_with_the_same_logits(
    family: str, adapted: Make, tiny: Tiny, batch: Batch, tmp_path: Path
) -> None:
    model = mixed(adapted(family, scale=0.7))
    written = export_peft(model, tmp_path, base_model="some/base")
    own = logits_of(model, batch)
    assert (own - logits_of(inject(tiny(family), r_max=1, seed=0), batch)).abs().max() > 0.05
    assert_same(own, through_peft(tiny(family), tmp_path, batch))
    config = config_of(tmp_path)
    assert config["base_model_name_or_path"] == "some/base"
    assert config["task_type"] == "SEQ_CLS"
    assert written.has_head
    assert written.num_modules == len(config["target_modules"]) == len(config["rank_pattern"])
    assert written.rank == max(config["rank_pattern"].values())
    assert written.payload_bytes == (tmp_path / "adapter_model.safetensors").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == list(NAMES)


@pytest.mark.parametrize("family", ["opt", "bert", "gpt2"])
def test_adapter_of_rank_one_keeps_its_logits(
    family: str, adapted: Make, tiny: Tiny, batch: Batch, tmp_path: Path
) -> None:
    model = mixed(adapted(family, r_max=1))
    export_peft(model, tmp_path, base_model="base")
    assert_same(logits_of(model, batch), through_peft(tiny(family), tmp_path, batch))


def test_merging_in_peft_keeps_the_logits(adapted: Make, tiny: Tiny, batch: Batch, tmp_path: Path) -> None:
    model = mixed(adapted("gpt2"))
    export_peft(model, tmp_path, base_model="base")
    merged = PeftModel.from_pretrained(tiny("gpt2"), str(tmp_path)).merge_and_unload().eval()
    assert_same(logits_of(model, batch), merged(**batch).logits)


def test_auto_class_of_peft_loads_base_and_export(adapted: Make, tiny: Tiny, batch: Batch, tmp_path: Path) -> None:
    tiny("bert").save_pretrained(tmp_path / "base")  # type: ignore[operator]
    model = mixed(adapted("bert"))
    export_peft(model, tmp_path / "adapter", base_model=str(tmp_path / "base"))
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(str(tmp_path / "adapter"))
    assert isinstance(loaded, PeftModelForSequenceClassification)
    assert_same(logits_of(model, batch), loaded.eval()(**batch).logits)


def test_ranks_of_layer_1_and_layer_10_are_kept_apart(batch: Batch, tmp_path: Path) -> None:
    import transformers as hf

    def base() -> nn.Module:
        torch.manual_seed(0)
        config = hf.BertConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=12, num_attention_heads=2, vocab_size=60
        )
        return hf.BertForSequenceClassification(config).eval()

    model = inject(base(), r_max=6, seed=0, target_modules=["attention.self.query"])
    torch.manual_seed(1)
    with torch.no_grad():
        for update in model.updates.values():
            update.lam.normal_()
    model.set_ranks([1, 2, 3, 0, 5, 6, 1, 0, 2, 4, 6, 3])
    export_peft(model, tmp_path, base_model="base")
    assert_same(logits_of(model, batch), through_peft(base(), tmp_path, batch))


def test_module_name_that_ends_another_keeps_its_own_rank(tmp_path: Path) -> None:
    def base() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(OrderedDict(fc=nn.Linear(8, 8), block=nn.Sequential(OrderedDict(fc=nn.Linear(8, 8)))))

    model = inject(base(), r_max=4, seed=0, target_modules="all-linear")
    with torch.no_grad():
        for update in model.updates.values():
            update.lam.fill_(0.5)
    model.set_ranks([1, 4])
    export_peft(model, tmp_path, base_model="base")
    x = torch.randn(3, 8)
    assert_same(model.model(x), PeftModel.from_pretrained(base(), str(tmp_path)).eval()(x))


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_all_ranks_zero_exports_the_head(family: str, adapted: Make, tiny: Tiny, batch: Batch, tmp_path: Path) -> None:
    model = mixed(adapted(family))
    model.set_ranks([0] * len(model.sites))
    written = export_peft(model, tmp_path, base_model="base")
    assert (written.num_modules, written.rank, written.has_head) == (1, 1, True)
    assert_same(logits_of(model, batch), through_peft(tiny(family), tmp_path, batch))


def test_all_ranks_zero_without_a_head_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    model = inject(tiny("bert").bert, r_max=2, seed=0)  # type: ignore[arg-type]
    model.set_ranks([0] * len(model.sites))
    with pytest.raises(AdapterError, match="nothing to export"):
        export_peft(model, tmp_path, base_model="base")
    assert not list(tmp_path.iterdir())


def test_encoder_without_a_head_is_exported(tiny: Tiny, batch: Batch, tmp_path: Path) -> None:
    del batch["labels"]
    model = inject(tiny("bert").bert, r_max=2, seed=0)  # type: ignore[arg-type]
    with torch.no_grad():
        for update in model.updates.values():
            update.lam.fill_(0.5)
    export_peft(model, tmp_path, base_model="base")
    assert config_of(tmp_path)["task_type"] is None
    other = PeftModel.from_pretrained(tiny("bert").bert, str(tmp_path)).eval()
    assert_same(model.model(**batch).last_hidden_state, other(**batch).last_hidden_state)


def test_chosen_head_modules_are_exported(tiny: Tiny, batch: Batch, tmp_path: Path) -> None:
    model = mixed(inject(tiny("bert"), r_max=2, seed=0, head_modules=["pooler", "classifier"]))
    export_peft(model, tmp_path, base_model="base")
    assert_same(logits_of(model, batch), through_peft(tiny("bert"), tmp_path, batch))


def test_modules_that_peft_also_saves_are_exported(tiny: Tiny, batch: Batch, tmp_path: Path) -> None:
    """PEFT also saves DistilBERT's pre_classifier if classifier is a module to save."""
    model = mixed(inject(tiny("distilbert"), r_max=2, seed=0, head_modules=["classifier"]))
    export_peft(model, tmp_path, base_model="base")
    assert "base_model.model.pre_classifier.weight" in load_file(tmp_path / "adapter_model.safetensors")
    assert_same(logits_of(model, batch), through_peft(tiny("distilbert"), tmp_path, batch))


def test_half_precision_updates_are_exported_in_float32(
    adapted: Make, tiny: Tiny, batch: Batch, tmp_path: Path
) -> None:
    model = mixed(adapted("bert", dtype=torch.bfloat16))
    export_peft(model, tmp_path, base_model="base")
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    torch.testing.assert_close(
        logits_of(model, batch), through_peft(tiny("bert"), tmp_path, batch), rtol=0.05, atol=0.05
    )


def test_same_adapter_gives_the_same_bytes_and_an_export_replaces_an_earlier_one(adapted: Make, tmp_path: Path) -> None:
    model = mixed(adapted("llama"))
    export_peft(model, tmp_path, base_model="base")
    first = [(tmp_path / name).read_bytes() for name in NAMES]
    export_uniform(model, tmp_path, for_="vllm", base_model="base")
    assert [(tmp_path / name).read_bytes() for name in NAMES] != first
    export_peft(model, tmp_path, base_model="base")
    assert [(tmp_path / name).read_bytes() for name in NAMES] == first


def test_export_leaves_the_model_unchanged(adapted: Make, batch: Batch, tmp_path: Path) -> None:
    model = mixed(adapted("gpt2"))
    ranks, before = model.rank_pattern, {key: value.clone() for key, value in model.model.state_dict().items()}
    export_peft(model, tmp_path / "a", base_model="base")
    export_uniform(model, tmp_path / "b", for_="vllm", base_model="base")
    assert model.rank_pattern == ranks
    assert all(torch.equal(value, before[key]) for key, value in model.model.state_dict().items())


@pytest.mark.parametrize("for_", ["vllm", "llama.cpp"])
@pytest.mark.parametrize("family", ["opt", "bert", "llama", "qwen3"])
def test_uniform_export_gives_the_same_logits_without_the_head(
    family: str, for_: Any, adapted: Make, tiny: Tiny, batch: Batch, tmp_path: Path
) -> None:
    model = adapted(family)
    model.set_ranks([index % 5 for index in range(len(model.sites))])
    written = export_uniform(model, tmp_path, for_=for_, base_model="base")
    assert_same(logits_of(model, batch), through_peft(tiny(family), tmp_path, batch))
    config = config_of(tmp_path)
    assert written.rank == config["r"] == config["lora_alpha"] == {"vllm": 8, "llama.cpp": 4}[for_]
    assert not written.has_head
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    assert config["modules_to_save"] is config["task_type"] is None
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in tensors)
    assert {min(tensor.shape) for tensor in tensors.values()} == {written.rank}


def test_uniform_export_of_a_fused_layer_has_the_summed_rank(
    adapted: Make, tiny: Tiny, batch: Batch, tmp_path: Path
) -> None:
    model = adapted("gpt2")
    written = export_uniform(model, tmp_path, for_="vllm", base_model="base")
    assert written.rank == 16
    assert_same(logits_of(model, batch), through_peft(tiny("gpt2"), tmp_path, batch))
    with pytest.raises(ModelError, match=r"llama\.cpp.*Conv1D"):
        export_uniform(model, tmp_path, for_="llama.cpp", base_model="base")


def test_uniform_rank_can_be_chosen_within_the_limits_of_the_loader(adapted: Make, tmp_path: Path) -> None:
    model = adapted("llama")
    assert export_uniform(model, tmp_path, for_="vllm", base_model="base", rank=64).rank == 64
    assert export_uniform(model, tmp_path, for_="llama.cpp", base_model="base", rank=5).rank == 5
    with pytest.raises(RankPatternError, match="rank = 12: allowed is one of 8, 16"):
        export_uniform(model, tmp_path, for_="vllm", base_model="base", rank=12)
    with pytest.raises(RankPatternError, match="= 4: allowed is at most 3"):
        export_uniform(model, tmp_path, for_="llama.cpp", base_model="base", rank=3)


def test_uniform_export_refuses_unknown_loaders_and_empty_adapters(adapted: Make, tmp_path: Path) -> None:
    model = adapted("bert")
    with pytest.raises(SettingsError, match="for = 'tgi'"):
        export_uniform(model, tmp_path, for_="tgi", base_model="base")  # type: ignore[arg-type]
    model.set_ranks([0] * len(model.sites))
    with pytest.raises(AdapterError, match="every module has rank 0"):
        export_uniform(model, tmp_path, for_="vllm", base_model="base")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["P", "head"])
def test_values_that_are_not_finite_are_refused(where: str, adapted: Make, tmp_path: Path) -> None:
    model = adapted("bert")
    with torch.no_grad():
        parameter = model.head_parameters()[0] if where == "head" else next(iter(model.updates.values())).P
        parameter[0, 0] = torch.nan
    with pytest.raises(AdapterError, match="not finite"):
        export_peft(model, tmp_path, base_model="base")
    assert not list(tmp_path.iterdir())


def test_export_to_a_folder_that_cannot_be_created_fails(adapted: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        export_peft(adapted("bert"), tmp_path / "file" / "folder", base_model="base")
