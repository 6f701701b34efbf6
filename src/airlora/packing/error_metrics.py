r"""Weights of rounding errors: second moments of a module's inputs and of its output gradients.

To second order, an error $E$ [d_out, d_in] of a module's update changes the loss by about

$$\mathbb{E}\,(\delta^\top E\,x)^2 \approx \operatorname{tr}(E^\top \Delta\, E\, X),
  \qquad X = \mathbb{E}\,x x^\top, \quad \Delta = \mathbb{E}\,\delta\delta^\top$$

X therefore weights the errors in a row of the right factor, and Delta those in a column of the left factor.

Notation: x input of the module's update; delta gradient of the loss with respect to its output. Expectations are over
all tokens except padding.

Source: Martens and Grosse 2015, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", for the
second moments and their independence.
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
"""Largest diagonal block of a second moment. For 8,192 inputs, the blocks take 17 MB and the full matrix 268 MB."""


def measure_metrics(
    adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int, *, max_block: int = MAX_BLOCK
) -> dict[str, tuple[ErrorMetric, ErrorMetric]]:
    """Return the error metrics of the left and right factors by module name.

    The adapter runs at full rank, in its own precision and without dropout. The model stays at full rank.

    Args:
        adapted: Model with the adapter, at any ranks.
        data: Samples on which the adapter was not trained.
        device: Device of the model.
        batch_size: Samples per forward and backward pass.
        max_block: Largest diagonal block of a second moment, rows, >= 1.

    Raises:
        TrainingError: A second moment is not finite.
    """
    adapted.set_ranks([adapted.r_max] * len(adapted.shapes))
    adapted.model.eval()
    moments = {
        name: (
            _SecondMoment(update.shape.d_out, max_block, device),
            _SecondMoment(update.shape.d_in, max_block, device),
        )
        for name, update in adapted.updates.items()
    }
    tokens = _TokenMask()
    handles = [
        update.register_forward_hook(_recorder(*moments[name], tokens)) for name, update in adapted.updates.items()
    ]
    try:
        for indices in data.in_order(batch_size):
            adapted.model.zero_grad(set_to_none=True)
            batch = data.batch(indices, device)
            tokens.mask = batch["attention_mask"].flatten().bool()
            torch.autograd.backward(data.task.batch_loss(adapted.model, batch))
    finally:
        for handle in handles:
            handle.remove()
        adapted.model.zero_grad(set_to_none=True)
    # Each second moment is freed once it is factorised: those of a large model take gigabytes.
    found = {}
    for name in adapted.updates:
        left, right = moments.pop(name)
        found[name] = left.metric(name), right.metric(name)
    return found


class _TokenMask:
    """Mask of the current batch: true for tokens, false for padding, bool [batch * tokens]."""

    mask: Tensor


class _SecondMoment:
    """Diagonal blocks of the sum of x x^T over all added rows x.

    Args:
        size: Length of a row.
        max_block: Largest number of rows of a block, >= 1.
        device: Device of the sums.
    """

    def __init__(self, size: int, max_block: int, device: torch.device) -> None:
        num_blocks = -(-size // max_block)
        self._bounds = [size * index // num_blocks for index in range(num_blocks + 1)]
        self._blocks = [
            torch.zeros(end - start, end - start, device=device)
            for start, end in zip(self._bounds, self._bounds[1:], strict=False)
        ]

    def add(self, rows: Tensor) -> None:
        """Add rows to the sum, float32 [num_rows, size]."""
        for block, start, end in zip(self._blocks, self._bounds, self._bounds[1:], strict=False):
            columns = rows[:, start:end]
            block.addmm_(columns.T, columns)

    def metric(self, name: str) -> ErrorMetric:
        blocks: list[npt.NDArray[np.float64]] = [block.double().cpu().numpy() for block in self._blocks]
        if not all(np.isfinite(block).all() for block in blocks):
            raise TrainingError(f"second moments in {name} are not finite: allowed are finite numbers")
        return ErrorMetric.from_moments(blocks)


def _recorder(left: _SecondMoment, right: _SecondMoment, tokens: _TokenMask) -> Any:
    """Return a forward hook that records the module's inputs and, in the backward pass, its output gradients."""

    def rows(values: Tensor) -> Tensor:
        flat = values.detach().flatten(0, -2).float()
        return flat[tokens.mask] if len(flat) == len(tokens.mask) else flat

    def on_forward(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        right.add(rows(inputs[0]))
        if output.requires_grad:
            output.register_hook(lambda gradient: left.add(rows(gradient)))  # type: ignore[no-untyped-call]

    return on_forward
