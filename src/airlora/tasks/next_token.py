r"""Losses of a language model at chosen tokens, without the logits of all tokens.

With a vocabulary of 262,144 entries, the logits of 500 tokens take half a gigabyte, and their gradient as much. Here
the last layer computes only the logits of tokens that count, in chunks. The backward pass computes each chunk again.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from airlora.tasks.base import IGNORED, TARGETS, Batch, model_inputs

__all__ = ["shifted_targets", "token_losses"]

_HEAD_IS_LAST: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether a model returns the outputs of its last layer unchanged, for models that were seen before."""

CHUNK_LOGITS = 1 << 25
"""Largest number of logits that are computed at once. In float32 they take 134 MB."""


def shifted_targets(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return where the next token counts, and these tokens.

    Args:
        batch: Tensors of the batch, targets int64 [batch, length] among them.

    Returns:
        bool [batch, length - 1], and int64 [num_targets] in the order of the true entries.
    """
    targets = batch[TARGETS][:, 1:]
    counts = targets != IGNORED
    return counts, targets[counts]


def token_losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the loss at every target of a batch, and whether the target has the largest logit.

    Args:
        model: Causal language model of `transformers`.
        batch: Tensors of the batch, targets int64 [batch, length] among them.

    Returns:
        Cross-entropy in nats, float32 [num_targets], and bool [num_targets], in the order of `shifted_targets`.
    """
    counts, targets = shifted_targets(batch)
    hidden, head = _hidden_states(model, batch)
    if head is None:
        return _losses_of(hidden[:, :-1][counts], targets)
    chosen = hidden[:, :-1][counts]
    size = max(1, CHUNK_LOGITS // _vocabulary_size(head))
    if len(chosen) <= size:
        return _losses_of(head(chosen), targets)

    def losses(states: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        return _losses_of(head(states), own)

    parts = zip(torch.split(chosen, size), torch.split(targets, size), strict=True)
    found = [checkpoint(losses, states, own, use_reentrant=False) for states, own in parts]
    return torch.cat([loss for loss, _ in found]), torch.cat([is_right for _, is_right in found])


def _losses_of(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    values = logits.float()
    return functional.cross_entropy(values, targets, reduction="none"), values.argmax(dim=-1) == targets


def _hidden_states(model: Any, batch: Batch) -> tuple[Tensor, nn.Module | None]:
    """Return the inputs of the last layer and that layer, or the logits and None if the model changes its outputs.

    Some models scale or bound their logits after the last layer. The logits of the first token tell. Such a model takes
    one more forward pass, the first time, and computes all logits.
    """
    head, kept = model.get_output_embeddings(), []
    if not _HEAD_IS_LAST.get(model, True):
        head = None

    def keep_first(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: ARG001
        kept.append(arguments[0])
        return (arguments[0][:, :1], *arguments[1:])

    if head is not None:
        hook = head.register_forward_pre_hook(keep_first)
        try:
            first = model(**model_inputs(batch)).logits
        finally:
            hook.remove()
        if len(kept) == 1 and kept[0].dim() == 3:
            with torch.no_grad():
                is_last = torch.equal(first, head(kept[0][:, :1]).to(first.dtype))
            _HEAD_IS_LAST[model] = is_last
            if is_last:
                return kept[0], head
    logits: Tensor = model(**model_inputs(batch)).logits
    return logits, None


def _vocabulary_size(head: Any) -> int:
    return int(head.weight.shape[0])
