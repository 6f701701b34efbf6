from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
import torch
from torch import nn

from airlora.adapters import base_fingerprint, inject

Tiny = Callable[..., nn.Module]


def test_it_survives_injection_and_training(family: str, tiny: Tiny) -> None:
    model = tiny(family)
    before = base_fingerprint(model)
    adapted = inject(model, r_max=2, seed=0)
    assert base_fingerprint(model) == before
    with torch.no_grad():
        for parameter in adapted.trainable_parameters():
            parameter.add_(1.0)
    assert base_fingerprint(model) == before
    adapted.eject()
    assert base_fingerprint(model) == before


def test_every_base_tensor_counts(tiny: Tiny) -> None:
    model = tiny("gpt2")
    prints = {base_fingerprint(model)}
    base = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("score.")}
    for tensor in base.values():
        tensor.view(-1)[-1] += 1
        prints.add(base_fingerprint(model))
    assert len(prints) == len(base) + 1


def test_names_and_types_count(tiny: Tiny) -> None:
    layer = nn.Linear(2, 2)
    prints = [
        base_fingerprint(nn.ModuleDict({"a": layer})),
        base_fingerprint(nn.ModuleDict({"b": layer})),
        base_fingerprint(nn.ModuleDict({"a": nn.Linear(2, 2).to(torch.bfloat16)})),
    ]
    assert len(set(prints)) == 3
    assert base_fingerprint(tiny("opt")) == base_fingerprint(tiny("opt"))
    assert base_fingerprint(tiny("opt")) != base_fingerprint(tiny("opt", seed=1))


def test_value_by_hand() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    # 1.0 in float32, little-endian
    text = b'["weight", "torch.float32", [1, 1]]' + bytes([0, 0, 0x80, 0x3F])
    assert base_fingerprint(layer) == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("head_modules", [None, (), ("pooler", "classifier")])
def test_the_head_is_left_out(head_modules: tuple[str, ...] | None, tiny: Tiny) -> None:
    model = tiny("bert")
    before = base_fingerprint(model, head_modules=head_modules)
    with torch.no_grad():
        model.classifier.weight.add_(1.0)
    assert (base_fingerprint(model, head_modules=head_modules) == before) == (head_modules != ())
    before = base_fingerprint(model, head_modules=head_modules)
    with torch.no_grad():
        model.bert.pooler.dense.weight.add_(1.0)
    assert (base_fingerprint(model, head_modules=head_modules) == before) == (head_modules == ("pooler", "classifier"))
