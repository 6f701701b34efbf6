"""How much each component matters: by the trained adapter's gradients, or by the base model's activations."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from airlora.adapters import AdaptedModel, ImportanceAccumulator, explained_variance_ratio
from airlora.training.batches import EncodedData

__all__ = ["measure_explained_variance", "measure_importance", "measure_loss_rises", "measure_taylor"]


def measure_importance(
    adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int
) -> npt.NDArray[np.float64]:
    """Return the squared gradient of every component's gate over `data`, float64 [num_modules, r_max].

    The adapter runs at full rank, in its own precision and without dropout. What the gate is, and why its squared
    gradient, says `ImportanceAccumulator`.
    """
    return _accumulate(adapted, data, device, batch_size).squared_gradient()


def measure_taylor(
    adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int
) -> npt.NDArray[np.float64]:
    """Return the size of the mean gradient of every component's gate over `data`, float64 [num_modules, r_max]."""
    return _accumulate(adapted, data, device, batch_size).taylor()


def measure_loss_rises(
    adapted: AdaptedModel,
    data: EncodedData,
    device: torch.device,
    batch_size: int,
    *,
    num_samples: int = 128,
) -> npt.NDArray[np.float64]:
    """Return how much the loss rises without a component, all others in place, nats, float64 [num_modules, r_max].

    A forward pass over the samples per component: 288 of them for 36 modules of 8.  Noise can make a rise negative.

    Args:
        adapted: At any ranks; they are full afterwards.
        data: Samples that the adapter was not fitted to; evenly spaced ones are taken, by length.
        device: Where the model is.
        batch_size: Of the forward passes.
        num_samples: At most this many.
    """
    adapted.set_ranks([adapted.r_max] * len(adapted.shapes))
    adapted.model.eval()
    order = np.argsort(data.lengths, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(num_samples, len(order))).round().astype(np.int64)]
    batches = [data.batch(chosen[start : start + batch_size], device) for start in range(0, len(chosen), batch_size)]

    def loss() -> float:
        return sum(float(adapted.model(**batch).loss) * len(batch["labels"]) for batch in batches) / len(chosen)

    rises = np.zeros((len(adapted.shapes), adapted.r_max))
    with torch.no_grad():
        whole = loss()
        for row, update in enumerate(adapted.updates.values()):
            for component in range(adapted.r_max):
                was = update.lam[component].clone()
                update.lam[component] = 0.0
                try:
                    rises[row, component] = loss() - whole
                finally:
                    update.lam[component] = was
    return rises


def _accumulate(
    adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int
) -> ImportanceAccumulator:
    adapted.set_ranks([adapted.r_max] * len(adapted.shapes))
    adapted.model.eval()
    accumulator = ImportanceAccumulator(adapted)
    for indices in data.in_order(batch_size):
        adapted.model.zero_grad(set_to_none=True)
        adapted.model(**data.batch(indices, device)).loss.backward()
        accumulator.add()
    adapted.model.zero_grad(set_to_none=True)
    return accumulator


def measure_explained_variance(
    adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int
) -> npt.NDArray[np.float64]:
    """Return the explained variance ratio of every module's inputs over `data`, float64 [num_modules, r_max].

    The base model runs alone: as in EVA, nothing of it depends on fine-tuning. See `explained_variance_ratio`.
    """
    batches = [data.batch(indices, device) for indices in data.in_order(batch_size)]
    return explained_variance_ratio(adapted, batches)
