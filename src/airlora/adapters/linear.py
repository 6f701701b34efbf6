"""The layers that are linear maps: `nn.Linear`, and GPT-2's `Conv1D`, whose weight is transposed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from airlora.ranks import ModuleShape

__all__ = ["add_to_weight", "is_linear", "linear_shape", "weight_matrix"]


def is_linear(module: nn.Module) -> bool:
    """Return whether an update can be added to the module's output.

    The output projection inside `nn.MultiheadAttention` is no such layer: its weight is read, it is never called.
    """
    return isinstance(module, (nn.Linear, Conv1D)) and not isinstance(module, NonDynamicallyQuantizableLinear)


def linear_shape(layer: nn.Module) -> ModuleShape:
    """Return in- and out-features of an `nn.Linear` or a `Conv1D`."""
    if isinstance(layer, Conv1D):
        return ModuleShape(int(layer.nx), int(layer.nf))
    if isinstance(layer, nn.Linear):
        return ModuleShape(layer.in_features, layer.out_features)
    raise TypeError(f"{type(layer).__name__} is neither nn.Linear nor Conv1D")


def weight_matrix(layer: nn.Module) -> Tensor:
    """Return the weight as a matrix [d_out, d_in] in float64."""
    weight = layer.get_parameter("weight").detach().double()
    return weight.T if isinstance(layer, Conv1D) else weight


def add_to_weight(layer: nn.Module, update: Tensor) -> None:
    """Add a dense update [d_out, d_in] to the layer's weight, in place; the sum is taken in float64."""
    weight = layer.get_parameter("weight")
    oriented = update.T if isinstance(layer, Conv1D) else update
    with torch.no_grad():
        weight.copy_(weight.double() + oriented.to(weight.device).double())
