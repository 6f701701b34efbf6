"""Sizes and counts of `benchmarks/true_scale.py`, without weights of the true size."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import OPTConfig, OPTForSequenceClassification

from airlora.adapters import inject

PATH = Path(__file__).parents[2] / "benchmarks" / "true_scale.py"


@pytest.fixture(scope="module")
def true_scale() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("true_scale", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["true_scale"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["true_scale"]


@pytest.mark.parametrize(("shape", "expected"), [("opt-125m", 125_239_296), ("opt-1.3b", 1_315_758_080)])
def test_the_shapes_have_the_parameters_of_the_published_models(
    true_scale: ModuleType, shape: str, expected: int
) -> None:
    assert true_scale.num_params(true_scale.config_of(shape)) == expected


def test_the_operations_of_a_step_are_those_that_torch_counts(true_scale: ModuleType) -> None:
    config = OPTConfig(
        vocab_size=100,
        hidden_size=32,
        ffn_dim=128,
        num_hidden_layers=12,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        attn_implementation="eager",
    )
    adapted = inject(OPTForSequenceClassification(config), r_max=8, seed=0)
    ranks = np.random.default_rng(0).integers(1, 9, len(adapted.shapes)).tolist()
    adapted.set_ranks(ranks)
    tokens = torch.randint(3, 100, (4, 16), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        loss = adapted.model(input_ids=tokens).logits.square().mean() + adapted.orthogonality_penalty(0.1)
        torch.autograd.backward(loss)
    one = true_scale.Pass(num_samples=4, length=16, num_real_tokens=64, ranks=tuple(ranks))
    counted = true_scale.step_flops(list(adapted.shapes.values()), one, attention_width=32 * 12)
    # The benchmark counts gradients of the first of the 12 layers that are not computed.
    assert counter.get_total_flops() < counted < 1.04 * counter.get_total_flops()


def test_the_tokenizer_begins_each_text_as_that_of_opt(true_scale: ModuleType, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    true_scale.config_of("opt-125m").save_pretrained(tmp_path)
    true_scale.make_tokenizer(["a ranked module", "a truncated module"], tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("a module")["input_ids"]
    assert (ids[0], tokenizer.pad_token_id) == (2, 1)
    assert tokenizer.decode(ids[1:]) == "a module"
    assert len(ids) == 3
