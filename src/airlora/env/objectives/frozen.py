"""The loss of a trained adapter at any cut, without training."""

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
from airlora.tasks import Task
from airlora.text import TextComplexity

__all__ = ["FrozenObjective"]


class FrozenObjective:
    """Task loss of a trained adapter at the chosen ranks, on one of a few fixed batches.

    Which batch is next is part of the randomness; the batches themselves stay, so that two patterns can be compared on
    the same sentences.  The adapter must be in an order where any cut makes sense (canonical SVD order, or nested
    training).

    Args:
        adapted: The trained model; its ranks are set by `measure`, nothing else changes.
        task: Task of the batches, whose loss is measured.
        batches: Batches of `EncodedData`, on the model's device.
        complexities: Text state of each batch.
        autocast: Makes the context that the forward pass runs in, for reduced precision.

    Raises:
        DataError: No batch, or not one complexity per batch.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        task: Task,
        batches: Sequence[Mapping[str, torch.Tensor]],
        complexities: Sequence[TextComplexity],
        autocast: type[AbstractContextManager[None]] | Any = nullcontext,
    ) -> None:
        if not batches or len(batches) != len(complexities):
            raise DataError(
                f"a frozen objective needs batches and one text state for each, got {len(batches)} and "
                f"{len(complexities)}"
            )
        self._adapted = adapted
        self._task = task
        self._batches = batches
        self._complexities = complexities
        self._autocast = autocast
        self._index = 0
        self._generator = np.random.default_rng(0)

    @property
    def shapes(self) -> Mapping[str, ModuleShape]:
        """The adapted modules, in order."""
        return self._adapted.shapes

    @property
    def r_max(self) -> int:
        """The largest rank."""
        return self._adapted.r_max

    @property
    def head_params(self) -> int:
        """Numbers of the classification head, which travels whatever the ranks are."""
        return self._adapted.head_params

    @property
    def num_batches(self) -> int:
        """How many batches there are."""
        return len(self._batches)

    def reset(self, generator: np.random.Generator) -> None:
        """Start an episode on a batch drawn from `generator`."""
        self._generator = generator
        self._draw()

    def complexity(self) -> TextComplexity:
        """Return the text state of the batch that the next `measure` uses."""
        return self._complexities[self._index]

    def measure(self, ranks: IntArray) -> float:
        """Return the loss at `ranks` on the batch in hand, nats, and draw the next batch."""
        loss = self.loss_on(ranks, self._index)
        self._draw()
        return loss

    @torch.no_grad()
    def loss_on(self, ranks: IntArray, index: int) -> float:
        """Return the loss at `ranks` on batch `index`, nats per sample."""
        self._adapted.set_ranks(ranks.tolist())
        self._adapted.model.eval()
        with self._autocast():
            loss = self._task.batch_loss(self._adapted.model, self._batches[index])
        return float(loss.float())

    def state_dict(self) -> dict[str, Any]:
        """Return which batch is next, and the generator's state."""
        return {"index": self._index, "generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._index = int(state["index"])
        self._generator.bit_generator.state = state["generator"]

    def _draw(self) -> None:
        self._index = int(self._generator.integers(len(self._batches)))
