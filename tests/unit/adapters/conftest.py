from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import AdaLoraConfig, LoraConfig, TaskType, get_peft_model
from torch import Tensor, nn

from airlora.adapters import AdaptedModel, inject

HIDDEN, INNER, VOCAB = 32, 48, 60

_LLAMA = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "pad_token_id": 0,
}
_BERT = _LLAMA | {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
del _BERT["num_key_value_heads"]
CONFIGS: dict[str, Callable[[], hf.PretrainedConfig]] = {
    "opt": lambda: hf.OPTConfig(
        hidden_size=HIDDEN,
        word_embed_proj_dim=HIDDEN,
        ffn_dim=INNER,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=VOCAB,
        pad_token_id=1,
        max_position_embeddings=32,
    ),
    "bert": lambda: hf.BertConfig(**_BERT),
    "roberta": lambda: hf.RobertaConfig(**_BERT),
    "distilbert": lambda: hf.DistilBertConfig(dim=HIDDEN, hidden_dim=INNER, n_layers=2, n_heads=4, vocab_size=VOCAB),
    "gpt2": lambda: hf.GPT2Config(n_embd=HIDDEN, n_inner=INNER, n_layer=2, n_head=4, vocab_size=VOCAB),
    "llama": lambda: hf.LlamaConfig(**_LLAMA),
    "qwen2": lambda: hf.Qwen2Config(**_LLAMA),
    "qwen3": lambda: hf.Qwen3Config(**_LLAMA, head_dim=8),
    "mistral": lambda: hf.MistralConfig(**_LLAMA, head_dim=8),
}


PEFT_TARGETS = {
    "opt": ["q_proj", "v_proj", "fc1"],
    "bert": ["query", "value", "attention.output.dense"],
    "llama": ["q_proj", "k_proj", "up_proj"],
    "gpt2": ["c_attn", "mlp.c_proj"],
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small run faster on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=list(CONFIGS))
def family(request: pytest.FixtureRequest) -> str:
    """Name of a model family. A test that takes it runs once per family."""
    return str(request.param)


@pytest.fixture
def tiny() -> Callable[..., nn.Module]:
    """`tiny(family, seed=0)` returns a randomly initialised classifier with two layers."""

    def make(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
        config = CONFIGS[name]()
        config.pad_token_id = config.pad_token_id or 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = hf.AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
        return model.to(dtype).eval()  # type: ignore[no-any-return]

    return make


@pytest.fixture
def adapted(tiny: Callable[..., nn.Module]) -> Callable[..., AdaptedModel]:
    """`adapted(family, r_max=4)` returns a tiny model with random updates."""

    def make(name: str, *, r_max: int = 4, seed: int = 0, **settings: object) -> AdaptedModel:
        adapted = inject(tiny(name), r_max=r_max, seed=seed, **settings)
        randomise(adapted, seed)
        return adapted

    return make


def randomise(adapted: AdaptedModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in (p for update in adapted.updates.values() for p in update.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Four sentences of up to eleven tokens, padded on the right, with labels."""
    tokens = torch.randint(3, VOCAB, (4, 11), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(tokens)
    mask[0, 6:] = 0
    mask[2, 9:] = 0
    return {"input_ids": tokens * mask, "attention_mask": mask, "labels": torch.tensor([0, 1, 1, 0])}


@pytest.fixture
def train(tiny: Callable[..., nn.Module], batch: dict[str, Tensor]) -> Callable[..., Tensor]:
    """`train(family, folder, **config)` trains and saves PEFT's LoRA or AdaLoRA and returns PEFT's logits."""

    def run(family: str, folder: Path, *, adalora: bool = False, steps: int = 6, **settings: Any) -> Tensor:
        settings = {"task_type": TaskType.SEQ_CLS, "target_modules": PEFT_TARGETS[family], "lora_alpha": 12} | settings
        if adalora:
            settings = {"init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 2, "deltaT": 1, "total_step": 9} | settings
            config = AdaLoraConfig(**settings)
        else:
            config = LoraConfig(**settings)
        torch.manual_seed(3)
        model = get_peft_model(tiny(family), config)
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.03)
        for step in range(steps):
            model(**batch).loss.backward()
            optimiser.step()
            if adalora:
                model.base_model.update_and_allocate(step)
            optimiser.zero_grad()
        model.save_pretrained(folder)
        with torch.no_grad():
            logits: Tensor = model.eval()(**batch).logits
        return logits

    return run
