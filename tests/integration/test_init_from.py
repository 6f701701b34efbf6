"""Adapters from elsewhere: packed as they are, and continued by a run."""

import json
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from airlora.codec import decode_stream
from commands import airlora, refused

SETTINGS = {
    "data.max_length": 32,
    "adapter.r_max": 4,
    "finetune.batch_size": 8,
    "finetune.precision": "float32",
    "finetune.learning_rate": 0.02,
    "finetune.warmup_fraction": 0,
    "env.frozen_batch_size": 6,
    "env.frozen_batches": 3,
    "num_threads": 1,
    "tensorboard": "false",
}


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory, tiny_decoder: Path) -> Path:
    """A stock rsLoRA of a language model, with random factors."""
    folder = tmp_path_factory.mktemp("peft")
    base = AutoModelForCausalLM.from_pretrained(tiny_decoder)
    config = peft.LoraConfig(
        r=3, lora_alpha=2, use_rslora=True, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(base, config)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


def train(out: Path, model: Path, data: tuple[Path, Path], *flags: object) -> "object":
    settings = [flag for key, value in SETTINGS.items() for flag in ("--set", f"{key}={value}")]
    files = ("--train", data[0], "--eval", data[1], "--model", model)
    return airlora("train", "--task", "causal-lm", "--out", out, *files, *settings, *flags)


@pytest.mark.parametrize("command", ["import", "pack"])
def test_a_stock_language_adapter_becomes_a_stream(
    stock: Path, tiny_decoder: Path, tmp_path: Path, command: str
) -> None:
    stream, prompt = tmp_path / "a.airs", "film great food :"
    result = airlora(command, stock, stream, "--bits", 32)
    assert result.returncode == 0, result.stderr
    found = airlora("generate", stream, "--model", tiny_decoder, "--prompt", prompt, "--max-new-tokens", 8, "--json")
    assert found.returncode == 0, found.stderr
    model = peft.AutoPeftModelForCausalLM.from_pretrained(stock).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    wanted = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    (own,) = json.loads(found.stdout)["completions"]
    assert own["adapted"] == tokenizer.decode(wanted[0, ids.shape[1] :], skip_special_tokens=True)
    assert own["adapted"] != own["base"]


def test_options_that_need_data_are_refused_for_a_stock_adapter(stock: Path, tmp_path: Path) -> None:
    refused(airlora("pack", stock, tmp_path / "a.airs", "--qat-steps", 3), "has no data", "--init-from")
    refused(airlora("import", stock, tmp_path / "a.airs", "--labels", "a,b"), "labels = 'a, b'", "language model")
    assert not (tmp_path / "a.airs").exists()


def test_a_run_continues_from_an_adapter(
    stock: Path, tiny_decoder: Path, tiny_prompts: tuple[Path, Path], tmp_path: Path
) -> None:
    stream = tmp_path / "a.airs"
    assert airlora("import", stock, stream, "--bits", 32).returncode == 0
    before = json.loads(
        airlora("evaluate", stream, "--model", tiny_decoder, "--data", tiny_prompts[1], "--json").stdout
    )
    targets = ("--set", 'adapter.target_modules=["q_proj", "down_proj"]')
    # A step at a rate of almost nothing keeps the adapter.
    still = ("--steps", 1, "--set", "finetune.learning_rate=1e-9", *targets)
    for number, source in enumerate((stock, stream)):
        result = train(tmp_path / f"same{number}", tiny_decoder, tiny_prompts, "--init-from", source, *still)
        assert result.returncode == 0, result.stderr
        same = json.loads(airlora("evaluate", tmp_path / f"same{number}", "--rank", 4, "--json").stdout)
        assert same["loss"] == pytest.approx(before["loss"], rel=1e-4)
    more = ("--init-from", tmp_path / "same0", "--steps", 30, *targets)
    result = train(tmp_path / "more", tiny_decoder, tiny_prompts, *more)
    assert result.returncode == 0, result.stderr
    after = json.loads(airlora("evaluate", tmp_path / "more", "--rank", 4, "--json").stdout)
    assert after["loss"] < before["loss"] - 0.1
    # Training uses the fourth component, too.
    assert airlora("pack", tmp_path / "more", tmp_path / "more.airs", "--bits", 32).returncode == 0
    ranks = [
        np.linalg.matrix_rank(U @ V) for U, V in decode_stream((tmp_path / "more.airs").read_bytes()).modules.values()
    ]
    assert max(ranks) == 4


def test_an_adapter_that_does_not_fit_is_refused(
    stock: Path, tiny_decoder: Path, tiny_prompts: tuple[Path, Path], run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def attempt(*flags: object) -> "object":
        return train(out, tiny_decoder, tiny_prompts, "--init-from", *flags)

    refused(
        attempt(stock, "--set", "adapter.r_max=2", "--set", "policy.constant_rank=2"), "rank of", "at most r_max, 2"
    )
    refused(attempt(tmp_path / "none"), str(tmp_path / "none"), "no such file")
    refused(attempt(run), "adapter.safetensors: adapts other modules")
    refused(attempt(stock, "--set", "finetune.align_steps=4"), "finetune.align_steps = 4", "adapter.init_from")
    assert not out.exists()
