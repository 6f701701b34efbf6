"""How much each component matters: by the trained adapter's gradients, or by the base model's activations."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from airlora.adapters import AdaptedModel, ImportanceAccumulator, explained_variance_ratio
from airlora.training.batches import EncodedData

__all__ = ["measure_explained_variance", "measure_importance"]


def measure_importance(
    adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int
) -> npt.NDArray[np.float64]:
    """Return the squared gradient of every component's gate over `data`, float64 [num_modules, r_max].

    The adapter runs at full rank, in its own precision and without dropout. What the gate is, and why its squared
    gradient, says `ImportanceAccumulator`.
    """
    adapted.set_ranks([adapted.r_max] * len(adapted.shapes))
    adapted.model.eval()
    accumulator = ImportanceAccumulator(adapted)
    for indices in data.in_order(batch_size):
        adapted.model.zero_grad(set_to_none=True)
        adapted.model(**data.batch(indices, device)).loss.backward()
        accumulator.add()
    adapted.model.zero_grad(set_to_none=True)
    importance: npt.NDArray[np.float64] = accumulator.squared_gradient()
    return importance


def measure_explained_variance(
    adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int
) -> npt.NDArray[np.float64]:
    """Return the explained variance ratio of every module's inputs over `data`, float64 [num_modules, r_max].

    The base model runs alone: as in EVA, nothing of it depends on fine-tuning. See `explained_variance_ratio`.
    """
    batches = [data.batch(indices, device) for indices in data.in_order(batch_size)]
    return explained_variance_ratio(adapted, batches)
