"""Switching off a model's own dropout, which blurs what few steps can learn and every gradient that is measured.

Evaluation mode would do the same, and switch off gradient checkpointing with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["no_dropout", "remove_dropout"]


def remove_dropout(model: nn.Module) -> None:
    """Set every share of dropout in the model to 0, also those of layers left out (`layerdrop`), in place."""
    for module, name, _ in list(_shares(model)):
        setattr(module, name, 0.0)


@contextmanager
def no_dropout(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while; the shares are as before afterwards, whatever happens."""
    before = list(_shares(model))
    remove_dropout(model)
    try:
        yield
    finally:
        for module, name, share in before:
            setattr(module, name, share)


def _shares(model: nn.Module) -> Iterator[tuple[nn.Module, str, float]]:
    """Yield where a share of dropout is kept: `nn.Dropout.p`, and numbers that functional dropout is called with."""
    for module in model.modules():
        for name, value in vars(module).items():
            is_share = (name == "p" and isinstance(module, nn.Dropout)) or "dropout" in name or name == "layerdrop"
            if is_share and isinstance(value, float):
                yield module, name, value
