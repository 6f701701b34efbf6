r"""How much each component matters: by the trained adapter's gradients, or by the base model's activations.

Gradients at the trained adapter say what its last bit of size is worth, of thousands of components mostly noise.  What
a component does among the few that a small stream holds shows on the way there: with all gates of the adapter at
$\gamma$, from 0, the base model with the trained head, to 1, the whole,

$$\int_0^1 -g_k(\gamma)\,d\gamma, \qquad \sum_k \int_0^1 -g_k(\gamma)\,d\gamma = U(0) - U(1)$$

shares out among the components all that the adapter takes off the loss.  Their mean with the squared gradients on
that way,

$$w_k = \frac{a_k}{2 \sum_j a_j} + \frac{b_k}{2 \sum_j b_j}, \qquad
  a_k = \Big[\int_0^1 -g_k(\gamma)\,d\gamma\Big]_+, \quad b_k = \int_0^1 \overline{g_k(\gamma)^2}\,d\gamma$$

is what `measure_path` gives: the first term is right where little is sent, the second where little is missing.

A stream that is polished, or made to be taken whole, lies between, many components and all of them rough: there the
geometric mean with the squared gradients at the end, `measure_balanced`, is better than either.

Notation: g_k the loss's gradient with respect to the gate of component k, see `ImportanceAccumulator`; U the task loss.

Source: Sundararajan et al. 2017 (integrated gradients).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from airlora.adapters import AdaptedModel, ImportanceAccumulator, explained_variance_ratio
from airlora.tasks import EncodedData

__all__ = [
    "PathGradients",
    "integrate_gates",
    "measure_balanced",
    "measure_explained_variance",
    "measure_importance",
    "measure_loss_rises",
    "measure_path",
    "measure_taylor",
]


PATH_POINTS = 4
"""Values of gamma on the way."""


@dataclass(frozen=True, slots=True)
class PathGradients:
    r"""What the gates' gradients come to on the way from no component to all.

    Args:
        taken: $\int -g_k\,d\gamma$, what the component takes off the loss, nats; negative for a harmful one;
            float64 [num_modules, r_max].
        squares: $\int \overline{g_k^2}\,d\gamma$, likewise.
    """

    taken: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]


def measure_importance(
    adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int
) -> npt.NDArray[np.float64]:
    """Return the squared gradient of every component's gate over `data`, float64 [num_modules, r_max].

    The adapter runs at full rank, in its own precision and without dropout. What the gate is, and why its squared
    gradient, says `ImportanceAccumulator`.
    """
    return _accumulate(adapted, data, device, batch_size).squared_gradient()


def measure_balanced(
    adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int
) -> npt.NDArray[np.float64]:
    """Return the geometric mean of `measure_path` and `measure_importance`, float64 [num_modules, r_max].

    Costs `PATH_POINTS` + 1 forward and backward passes over `data`.  Where no gradient is left at the end, as of an
    adapter that is sure and right about every sample, the way alone decides.
    """
    way, end = (measure(adapted, data, device, batch_size) for measure in (measure_path, measure_importance))
    return np.sqrt(way * end) if end.any() else way


def measure_taylor(
    adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int
) -> npt.NDArray[np.float64]:
    """Return the size of the mean gradient of every component's gate over `data`, float64 [num_modules, r_max]."""
    return _accumulate(adapted, data, device, batch_size).taylor()


def measure_path(
    adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int
) -> npt.NDArray[np.float64]:
    """Return w_k of the module's equation for every component, float64 [num_modules, r_max]; together they are 1.

    Where no component takes anything off the loss, as on data that have nothing to do with the adapter, the squared
    gradients decide alone.
    """
    path = integrate_gates(adapted, data, device, batch_size, num_points=PATH_POINTS)
    parts = [part / part.sum() for part in (np.maximum(path.taken, 0.0), path.squares) if part.sum() > 0]
    return sum(parts, np.zeros_like(path.taken)) / max(len(parts), 1)


def integrate_gates(
    adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int, *, num_points: int
) -> PathGradients:
    """Return the integrals of the gates' gradients, as Gauss-Legendre sums.

    The adapter is left as it was, but at full rank.

    Args:
        adapted: The model, at any ranks.
        data: Samples that the adapter was not fitted to.
        device: Where the model is.
        batch_size: Of the passes.
        num_points: Values of gamma, each of which costs a forward and a backward pass over `data`.
    """
    nodes, shares = np.polynomial.legendre.leggauss(num_points)
    taken, squares = (np.zeros((len(adapted.shapes), adapted.r_max)) for _ in range(2))
    was = [update.lam.detach().clone() for update in adapted.updates.values()]
    try:
        for gate, share in zip((nodes + 1.0) / 2.0, shares / 2.0, strict=True):
            with torch.no_grad():
                for update, lam in zip(adapted.updates.values(), was, strict=True):
                    update.lam.copy_(gate * lam)
            found = _accumulate(adapted, data, device, batch_size)
            # The accumulator's gates start at what is in the model, gamma times the adapter.
            taken -= share * found.gradient() / gate
            squares += share * found.squared_gradient() / gate**2
    finally:
        with torch.no_grad():
            for update, lam in zip(adapted.updates.values(), was, strict=True):
                update.lam.copy_(lam)
    return PathGradients(taken, squares)


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
        losses = [float(data.task.batch_loss(adapted.model, batch)) for batch in batches]
        return float(np.average(losses, weights=[data.task.num_targets(batch) for batch in batches]))

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
        torch.autograd.backward(data.task.batch_loss(adapted.model, data.batch(indices, device)))
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
