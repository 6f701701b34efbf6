r"""In which the errors of a module's components count: second moments of what goes in and of what comes back.

To second order an error in the update of a module, $E$ [d_out, d_in], adds to the loss about

$$\mathbb{E}\,(\delta^\top E\,x)^2 \approx \operatorname{tr}(E^\top \Delta\, E\, X),
  \qquad X = \mathbb{E}\,x x^\top, \quad \Delta = \mathbb{E}\,\delta\delta^\top$$

so that an error of a right factor's row counts by X and one of a left factor's column by Delta.

Notation: x input and delta gradient of the output of the module's update, over all tokens that are not padding.

Source: Martens and Grosse 2015 (K-FAC) for the second moments and for taking them as independent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from airlora.adapters import AdaptedModel
from airlora.codec import ErrorMetric
from airlora.errors import TrainingError
from airlora.tasks import EncodedData

__all__ = ["MAX_BLOCK", "measure_metrics"]

MAX_BLOCK = 512
"""Wider moments are kept in blocks of at most this along the diagonal: of 8,192 inputs 17 MB instead of 268."""


def measure_metrics(
    adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int, *, max_block: int = MAX_BLOCK
) -> dict[str, tuple[ErrorMetric, ErrorMetric]]:
    """Return the metrics of the left and right factors of every module.

    The adapter runs at full rank, in its own precision and without dropout, and is left so.

    Args:
        adapted: The model, at any ranks.
        data: Samples that the adapter was not fitted to.
        device: Where the model is.
        batch_size: Of the forward and backward passes.
        max_block: Largest block of a second moment, >= 1.

    Raises:
        TrainingError: A second moment is not finite.
    """
    adapted.set_ranks([adapted.r_max] * len(adapted.shapes))
    adapted.model.eval()
    moments = {
        name: (_Moment(update.shape.d_out, max_block, device), _Moment(update.shape.d_in, max_block, device))
        for name, update in adapted.updates.items()
    }
    present = _Present()
    handles = [
        update.register_forward_hook(_gatherer(*moments[name], present)) for name, update in adapted.updates.items()
    ]
    try:
        for indices in data.in_order(batch_size):
            adapted.model.zero_grad(set_to_none=True)
            batch = data.batch(indices, device)
            present.mask = batch["attention_mask"].flatten().bool()
            torch.autograd.backward(data.task.batch_loss(adapted.model, batch))
    finally:
        for handle in handles:
            handle.remove()
        adapted.model.zero_grad(set_to_none=True)
    # Each is let go of once it is factored: of large models they take gigabytes.
    found = {}
    for name in adapted.updates:
        left, right = moments.pop(name)
        found[name] = left.metric(name), right.metric(name)
    return found


class _Present:
    """Which tokens of the batch under way are text."""

    mask: Tensor


class _Moment:
    """Sum of x x^T, in blocks along its diagonal."""

    def __init__(self, size: int, max_block: int, device: torch.device) -> None:
        num_blocks = -(-size // max_block)
        self._cuts = [size * place // num_blocks for place in range(num_blocks + 1)]
        self._blocks = [
            torch.zeros(end - start, end - start, device=device)
            for start, end in zip(self._cuts, self._cuts[1:], strict=False)
        ]

    def add(self, rows: Tensor) -> None:
        """Add the rows, [tokens, size]."""
        for block, start, end in zip(self._blocks, self._cuts, self._cuts[1:], strict=False):
            part = rows[:, start:end]
            block.addmm_(part.T, part)

    def metric(self, name: str) -> ErrorMetric:
        blocks: list[npt.NDArray[np.float64]] = [block.double().cpu().numpy() for block in self._blocks]
        if not all(np.isfinite(block).all() for block in blocks):
            raise TrainingError(f"second moments in {name} are not finite: allowed are finite numbers")
        return ErrorMetric.from_moments(blocks)


def _gatherer(left: _Moment, right: _Moment, present: _Present) -> Any:
    """Return a forward hook that adds the inputs of each call and, in the backward pass, its output's gradients."""

    def rows(values: Tensor) -> Tensor:
        flat = values.detach().flatten(0, -2).float()
        return flat[present.mask] if len(flat) == len(present.mask) else flat

    def on_forward(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        right.add(rows(inputs[0]))
        if output.requires_grad:
            output.register_hook(lambda gradient: left.add(rows(gradient)))  # type: ignore[no-untyped-call]

    return on_forward
