"""Which base model an adapter belongs to, as a digest of its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from airlora.adapters.projections import find_head
from airlora.adapters.svd import SVDLayer

__all__ = ["base_fingerprint"]


def base_fingerprint(model: nn.Module, *, head_modules: Sequence[str] | None = None) -> str:
    """Return the SHA-256 over the base model's parameters and saved buffers, 64 hexadecimal digits.

    Name, dtype, shape and bytes of every tensor count, in the order of the names; the head does not.  It is the same
    before and after `inject`, whatever the updates, and on every device.

    Args:
        model: The model, with or without updates.
        head_modules: As in `find_head`.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_base_tensors(model, find_head(model, head_modules)).items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        # One tensor at a time, as bytes: also bfloat16, which NumPy does not have.
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _base_tensors(model: nn.Module, head_names: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors by the names that they have without updates; they share memory with the model."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, SVDLayer)}
    replaced = tuple(f"{name}." for name in (*layers, *head_names))
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(replaced)}
    for name, layer in layers.items():
        tensors |= {f"{name}.{key}": tensor for key, tensor in layer.base.state_dict().items()}
    return tensors
