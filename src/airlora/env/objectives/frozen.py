"""The loss of a trained adapter at any ranks, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from airlora.adapters import AdaptedModel
from airlora.errors import DataError
from airlora.observation import IntArray
from airlora.ranks import ModuleShape
from airlora.text import TextComplexity

__all__ = ["FrozenObjective"]


class FrozenObjective:
    """Loss of a trained adapter at the chosen ranks, on one of several fixed batches.

    Each step draws one batch at random. The batches do not change, so that two rank patterns can be compared on the
    same samples. The components of each module must be in order of importance, by canonical SVD order or nested
    training.

    Args:
        adapted: Model with the trained adapter. `measure` sets its ranks and changes nothing else.
        batches: Tokenised batches with `labels`, on the model's device.
        complexities: Lexical entropy and OOV rate of each batch.
        autocast: Factory of the context manager of the forward pass, for reduced precision.

    Raises:
        DataError: There is no batch, or the number of complexities differs from the number of batches.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        batches: Sequence[Mapping[str, torch.Tensor]],
        complexities: Sequence[TextComplexity],
        autocast: type[AbstractContextManager[None]] | Any = nullcontext,
    ) -> None:
        if not batches or len(batches) != len(complexities):
            raise DataError(
                f"a frozen objective needs batches and one text complexity for each, got {len(batches)} and "
                f"{len(complexities)}"
            )
        self._adapted = adapted
        self._batches = batches
        self._complexities = complexities
        self._autocast = autocast
        self._index = 0
        self._generator = np.random.default_rng(0)

    @property
    def shapes(self) -> Mapping[str, ModuleShape]:
        """Shape of each adapted module, in order."""
        return self._adapted.shapes

    @property
    def r_max(self) -> int:
        """Largest rank of a module."""
        return self._adapted.r_max

    @property
    def head_params(self) -> int:
        """Parameters of the classification head, which is sent with every rank pattern."""
        return self._adapted.head_params

    @property
    def num_batches(self) -> int:
        """Number of batches."""
        return len(self._batches)

    def reset(self, generator: np.random.Generator) -> None:
        """Start an episode and draw its first batch from a generator, which the objective keeps."""
        self._generator = generator
        self._draw()

    def complexity(self) -> TextComplexity:
        """Return lexical entropy and OOV rate of the batch of the current step."""
        return self._complexities[self._index]

    def measure(self, ranks: IntArray) -> float:
        """Return the loss at the ranks on the batch of the current step, nats per sample, and draw the next batch."""
        loss = self.loss_on(ranks, self._index)
        self._draw()
        return loss

    @torch.no_grad()
    def loss_on(self, ranks: IntArray, index: int) -> float:
        """Return the loss at the ranks on one batch, nats per sample."""
        self._adapted.set_ranks(ranks.tolist())
        self._adapted.model.eval()
        with self._autocast():
            output = self._adapted.model(**self._batches[index])
        return float(output.loss.float())

    def mean_loss(self, ranks: IntArray) -> float:
        """Return the mean loss at the ranks over all batches, nats per sample."""
        sizes = [batch["labels"].shape[0] for batch in self._batches]
        losses = [self.loss_on(ranks, index) for index in range(len(self._batches))]
        return float(np.average(losses, weights=sizes))

    def state_dict(self) -> dict[str, Any]:
        """Return the index of the current batch and the state of the generator."""
        return {"index": self._index, "generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self._index = int(state["index"])
        self._generator.bit_generator.state = state["generator"]

    def _draw(self) -> None:
        self._index = int(self._generator.integers(len(self._batches)))
