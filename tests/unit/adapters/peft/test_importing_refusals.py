from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from airlora.adapters import AdaptedModel, inject
from airlora.adapters.peft import load_peft
from airlora.errors import AdapterError

Tiny = Callable[..., nn.Module]
Train = Callable[..., Tensor]

QUERY = "bert.encoder.layer.0.attention.self.query"


@pytest.fixture
def folder(train: Train, tmp_path: Path) -> Path:
    """Folder of a trained LoRA of BERT."""
    train("bert", tmp_path, steps=1, r=2)
    return tmp_path


@pytest.fixture
def model(tiny: Tiny) -> AdaptedModel:
    return inject(tiny("bert"), r_max=4, seed=9)


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)


def assert_refused(model: AdaptedModel, folder: Path, match: str) -> None:
    before, ranks = [tensor.clone() for tensor in model.model.state_dict().values()], model.rank_pattern
    with pytest.raises(AdapterError, match=match) as caught:
        load_peft(model, folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert model.rank_pattern == ranks
    assert all(torch.equal(a, b) for a, b in zip(before, model.model.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_missing_files_are_refused(name: str, model: AdaptedModel, folder: Path) -> None:
    (folder / name).unlink()
    assert_refused(model, folder, f"{name}: no such file")


def test_missing_folder_is_refused(model: AdaptedModel, tmp_path: Path) -> None:
    assert_refused(model, tmp_path / "none", "no such file")


def test_pickled_weights_are_refused(model: AdaptedModel, folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert_refused(model, folder, r"adapter_model\.bin is a pickle")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff", "[" * 100_000])
def test_damaged_json_is_refused(text: str, model: AdaptedModel, folder: Path) -> None:
    (folder / "adapter_config.json").write_text(text)
    assert_refused(model, folder, "JSON")


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_weights_are_refused(size: int, model: AdaptedModel, folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert_refused(model, folder, "damaged")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
        ({"peft_type": ["LORA"]}, "peft_type"),
        ({"use_dora": True}, "use_dora is set .DoRA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"target_parameters": ["weight"]}, "target_parameters"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"use_qalora": True}, "use_qalora"),
        ({"r": 0}, "r = 0"),
        ({"r": "2"}, "r = '2'"),
        ({"r": True}, "r = True"),
        ({"r": 3}, "rank of bert.* = 2: allowed is 3"),
        ({"rank_pattern": {"query": 3}}, "rank of bert.*query = 2: allowed is 3"),
        ({"rank_pattern": {"query": -1}}, "rank_pattern of query = -1"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"rank_pattern": {"(": 2}}, "regular expression"),
        ({"rank_pattern": {"(?i)q": 2}}, "regular expression"),
        ({"rank_pattern": {"(a+)+b": 2}}, "regular expression"),
        ({"rank_pattern": {".*.*.*.*x": 2}}, "regular expression"),
        ({"alpha_pattern": {"query": "1"}}, "alpha_pattern of query = '1'"),
        ({"lora_alpha": None}, "lora_alpha = None"),
        ({"lora_alpha": float("nan")}, "lora_alpha = nan"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"lora_alpha": 1e39}, "lora_alpha"),
        ({"modules_to_save": "classifier"}, "modules_to_save"),
        ({"modules_to_save": [""]}, "modules_to_save"),
        ({"modules_to_save": None}, "unknown tensor classifier.bias"),
        ({"base_model_name_or_path": 1}, "base_model_name_or_path = 1"),
        ({"task_type": {}}, "task_type"),
        ({"peft_type": "ADALORA", "init_r": 0, "rank_pattern": None}, "init_r = 0"),
    ],
)
def test_unsupported_and_invalid_settings_are_refused(
    values: dict[str, Any], match: str, model: AdaptedModel, folder: Path
) -> None:
    change_config(folder, **values)
    assert_refused(model, folder, match)


A, B = (f"base_model.model.{QUERY}.lora_{which}.weight" for which in "AB")
EMBEDDING = "base_model.model.bert.embeddings.word_embeddings"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.pop(A), f"lacks lora_A of {QUERY}"),
        (lambda t: t.pop(B), f"lacks lora_B of {QUERY}"),
        (lambda t: t[B].fill_(torch.nan), f"{QUERY}.lora_B.weight holds values that are not finite"),
        (lambda t: t[A].fill_(torch.inf), "not finite"),
        (lambda t: t[B].fill_(3e38), "not finite"),
        (lambda t: t["base_model.model.classifier.weight"].fill_(torch.nan), "not finite"),
        (lambda t: t.update({A: t[A][:1]}), f"shapes of {QUERY}"),
        (lambda t: t.update({A: t[A][0]}), f"shapes of {QUERY}"),
        (lambda t: t.update({A: t[A][:, :5]}), f"shape of {QUERY}"),
        (lambda t: t.update({A: t[A].int()}), "floating-point"),
        (lambda t: t.update({"base_model.model.classifier.weight": torch.zeros(3, 32)}), "shape of classifier.weight"),
        (lambda t: t.pop("base_model.model.classifier.bias"), "lacks classifier.bias"),
        (lambda t: t.update({"base_model.model.x": torch.zeros(1)}), "unknown tensor x"),
        (lambda t: t.update({"base_model.model.x.bias": torch.zeros(1)}), "unknown tensor x.bias"),
        (lambda t: t.update({f"{EMBEDDING}.lora_embedding_A": torch.zeros(2, 60)}), "word_embeddings, an embedding"),
        (lambda t: t.update({f"{EMBEDDING}.weight": torch.zeros(60, 32)}), "unknown tensor bert.embeddings"),
        (lambda t: t.update({A.replace("query", "q"): t[A], B.replace("query", "q"): t[B]}), "attention.self.q$"),
        (
            lambda t: t.update(
                {f"base_model.model.bert.pooler.dense.lora_{n}.weight": t[m] for n, m in zip("AB", (A, B), strict=True)}
            ),
            "adapts bert.pooler.dense, a layer that airlora does not adapt",
        ),
        (lambda t: t.update({f"base_model.model.{QUERY}.lora_magnitude_vector": torch.ones(32)}), "magnitude"),
        (lambda t: [t.pop(name) for name in list(t) if "lora" in name], "no lora_A and lora_B"),
    ],
)
def test_missing_misshapen_and_unknown_tensors_are_refused(
    change: Callable[[dict[str, Tensor]], object], match: str, model: AdaptedModel, folder: Path
) -> None:
    change_tensors(folder, change)
    assert_refused(model, folder, match)


def test_missing_and_misshapen_adalora_tensors_are_refused(train: Train, model: AdaptedModel, tmp_path: Path) -> None:
    train("bert", tmp_path, adalora=True, steps=1)
    change_tensors(tmp_path, lambda t: t.update({f"base_model.model.{QUERY}.lora_E": torch.zeros(3, 1)}))
    assert_refused(model, tmp_path, f"shape of {QUERY}.lora_E")
    change_tensors(tmp_path, lambda t: t.pop(f"base_model.model.{QUERY}.lora_E"))
    assert_refused(model, tmp_path, f"lacks lora_E of {QUERY}")


def test_adapter_of_another_base_model_is_refused(model: AdaptedModel, train: Train, tmp_path: Path) -> None:
    train("opt", tmp_path, steps=1)
    assert_refused(model, tmp_path, "adapts 6 layers without an update in the model")


def test_fused_layer_of_another_width_is_refused(tiny: Tiny, train: Train, tmp_path: Path) -> None:
    train("gpt2", tmp_path, steps=1)
    name = "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"
    change_tensors(tmp_path, lambda t: t.update({name: t[name][:-1]}))
    assert_refused(inject(tiny("gpt2"), r_max=4, seed=0), tmp_path, "shape of transformer.h.0.attn.c_attn")


def test_head_that_the_model_lacks_is_refused(tiny: Tiny, train: Train, tmp_path: Path) -> None:
    train("bert", tmp_path, steps=1, modules_to_save=["pooler"])
    model = inject(tiny("bert"), r_max=8, seed=0)
    assert_refused(model, tmp_path, "bert.pooler.dense.bias, which is not in the model's head .classifier")
