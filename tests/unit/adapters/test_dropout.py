from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from airlora.adapters import inject, no_dropout, remove_dropout


def logits(model: nn.Module, batch: dict[str, Tensor], seed: int) -> Tensor:
    torch.manual_seed(seed)
    found: Tensor = model(**batch).logits.detach()
    return found


def test_a_family_without_dropout_answers_alike_in_training_mode(
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
def test_dropout_comes_back(name: str, tiny: Callable[..., nn.Module], batch: dict[str, Tensor]) -> None:
    model = tiny(name).train()
    before = logits(model, batch, 1)
    assert not torch.equal(before, logits(model, batch, 2))
    with pytest.raises(KeyError), no_dropout(model):
        raise KeyError
    assert torch.equal(logits(model, batch, 1), before)
