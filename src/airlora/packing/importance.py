r"""Importance measures: how much each rank-one component of an adapter contributes to the task.

A measure returns one number >= 0 per component.  To add a measure, write a function with the decorator
`importance_measure` in this module.  The table `IMPORTANCE_MEASURES`, `Packing.importance`, the option `--importance`
and its help take the measure from there.

Gradients are taken with respect to gates.  The gate of a component multiplies its singular value and is 1 in the
trained adapter (see `ImportanceAccumulator`).  With all gates at $\gamma = 0$ the model is the base model with the
trained classification head; with all gates at $\gamma = 1$ it is the adapted model.  Gradients at $\gamma = 1$
describe small changes of the whole adapter.  The effect of a component beside few others shows in the integrals

$$a_k = \Big[\int_0^1 -g_k(\gamma)\,d\gamma\Big]_+, \qquad b_k = \int_0^1 \overline{g_k(\gamma)^2}\,d\gamma$$

Without the clipping at 0, the $a_k$ sum to the loss that the adapter removes, $U(0) - U(1)$.

Notation: g_k gradient of the task loss U with respect to the gate of component k; a_k loss that the component removes,
nats; b_k integral of its squared gradient, averaged over mini-batches.

Source: Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks" (integrated gradients).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from airlora.adapters import AdaptedModel, ImportanceAccumulator, components_of, explained_variance_ratio
from airlora.errors import SettingsError
from airlora.tasks import EncodedData

__all__ = [
    "IMPORTANCE_MEASURES",
    "GateIntegrals",
    "ImportanceMeasure",
    "ablation",
    "balanced_gradient",
    "find_measure",
    "importance_measure",
    "integrate_gates",
    "integrated_gradient",
    "loss_increases",
    "measure_explained_variance",
    "measure_importance",
    "singular_value",
    "singular_value_gradient",
    "squared_gradient",
    "taylor",
]

Floats = npt.NDArray[np.float64]
MeasureFunction = Callable[[AdaptedModel, EncodedData, torch.device, int], Floats]
F = TypeVar("F", bound=MeasureFunction)

NUM_GATE_VALUES = 4
"""Gate values at which `integrated_gradient` evaluates gradients."""

ABLATION_FLOOR = 0.05
"""Share of squared singular values in `ablation`, where noise can hide the loss increase of a component."""


@dataclass(frozen=True, slots=True)
class ImportanceMeasure:
    """An entry of the table of importance measures.

    Args:
        function: Function of the model, the calibration samples, the device and the batch size. It returns the
            importance of every component, float64 [num_modules, r_max], and leaves the model at full rank.
        cost: Cost in words. A pass is a forward and a backward pass over the calibration samples.
        help: Definition of the measure, shown by `--help`.
        needs_data: Whether the function reads the calibration samples.
        former_name: Earlier name of the measure, which stored files hold. None if it was never renamed.
    """

    function: MeasureFunction
    cost: str
    help: str
    needs_data: bool = True
    former_name: str | None = None


IMPORTANCE_MEASURES: dict[str, ImportanceMeasure] = {}
"""Importance measures by name."""


def importance_measure(
    cost: str,
    help: str,  # noqa: A002 (the word of command lines)
    *,
    needs_data: bool = True,
    former_name: str | None = None,
) -> Callable[[F], F]:
    """Return a decorator that enters a function in `IMPORTANCE_MEASURES` under its own name.

    The arguments are the fields of `ImportanceMeasure`.
    """

    def enter(function: F) -> F:
        IMPORTANCE_MEASURES[function.__name__] = ImportanceMeasure(function, cost, help, needs_data, former_name)
        return function

    return enter


def find_measure(name: str) -> ImportanceMeasure:
    """Return the importance measure of a name.

    Args:
        name: Key of `IMPORTANCE_MEASURES`.

    Raises:
        SettingsError: The name is unknown, or the measure was renamed. The message states the allowed names.
    """
    if name not in IMPORTANCE_MEASURES:
        renamed = [f"its new name {new}" for new, own in IMPORTANCE_MEASURES.items() if own.former_name == name]
        raise SettingsError.of("importance", name, *renamed or [f"one of {', '.join(IMPORTANCE_MEASURES)}"])
    return IMPORTANCE_MEASURES[name]


def measure_importance(
    adapted: AdaptedModel,
    data: EncodedData | None,
    device: torch.device,
    batch_size: int,
    measure: str = "squared_gradient",
) -> Floats:
    """Return the importance of every component, float64 [num_modules, r_max], >= 0.

    The adapter runs at full rank, in its own precision and without dropout. The model stays at full rank.

    Args:
        adapted: Model with the trained adapter in canonical order, at any ranks.
        data: Calibration samples, on which the adapter was not trained. None for a measure that needs no data.
        device: Device of the model.
        batch_size: Samples per forward and backward pass.
        measure: Key of `IMPORTANCE_MEASURES`.

    Raises:
        SettingsError: The measure is unknown, or needs data and there are none.
    """
    found = find_measure(measure)
    if data is None and found.needs_data:
        raise SettingsError(f"importance {measure!r} needs calibration data, and there are none")
    return found.function(adapted, data, device, batch_size)  # type: ignore[arg-type]  # None only if unread


@importance_measure(
    f"{NUM_GATE_VALUES} passes",
    "mean of the loss that the component removes and of its squared gradient, both integrated from no adapter to the "
    "whole adapter",
    former_name="path",
)
def integrated_gradient(adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int) -> Floats:
    r"""Return the mean of a_k and b_k, each divided by its sum, float64 [num_modules, r_max] with sum 1.

    $$w_k = \frac{a_k}{2 \sum_j a_j} + \frac{b_k}{2 \sum_j b_j}$$

    The first term fits streams of few components, the second fits streams that omit few.  If no component removes loss,
    as on data that are unrelated to the task, only the second term counts.
    """
    integrals = integrate_gates(adapted, data, device, batch_size, num_points=NUM_GATE_VALUES)
    terms = [_normalised(term) for term in (np.maximum(integrals.loss, 0.0), integrals.squared) if term.any()]
    return sum(terms, np.zeros_like(integrals.loss)) / max(len(terms), 1)


@importance_measure("1 pass", "squared gradient of the component's gate", former_name="gradient")
def squared_gradient(adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int) -> Floats:
    r"""Return the mean of $g_k^2$ over mini-batches, float64 [num_modules, r_max].

    It is proportional to the second-order change of the loss.
    """
    return _gate_gradients(adapted, data, device, batch_size).squared_gradient()


@importance_measure(
    f"{NUM_GATE_VALUES + 1} passes",
    "geometric mean of `integrated_gradient` and `squared_gradient`",
    former_name="balanced",
)
def balanced_gradient(adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int) -> Floats:
    """Return the geometric mean of `integrated_gradient` and `squared_gradient`, float64 [num_modules, r_max].

    It suits streams of many coarsely rounded components.  If all squared gradients are 0, as for an adapter that is
    certain of the right label of every sample, the result is `integrated_gradient`.
    """
    integrated = integrated_gradient(adapted, data, device, batch_size)
    squared = squared_gradient(adapted, data, device, batch_size)
    return np.sqrt(integrated * squared) if squared.any() else integrated


@importance_measure("1 pass", "absolute mean gradient of the component's gate")
def taylor(adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int) -> Floats:
    r"""Return $|\overline{g_k}|$, the first-order change of the loss without the component, [num_modules, r_max]."""
    return _gate_gradients(adapted, data, device, batch_size).taylor()


@importance_measure("no pass", "squared singular value of the component", needs_data=False, former_name="singular")
def singular_value(adapted: AdaptedModel, _data: EncodedData, _device: torch.device, _batch_size: int) -> Floats:
    r"""Return $\sigma_k^2$, the squared norm of the update's change without the component, [num_modules, r_max]."""
    return np.stack([module.singular_values for module in components_of(adapted).values()]) ** 2


@importance_measure("1 pass", "geometric mean of `singular_value` and `squared_gradient`", former_name="combined")
def singular_value_gradient(adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int) -> Floats:
    """Return the geometric mean of `singular_value` and `squared_gradient`, float64 [num_modules, r_max]."""
    gradients = squared_gradient(adapted, data, device, batch_size)
    return np.sqrt(singular_value(adapted, data, device, batch_size) * gradients)


@importance_measure(
    "1 forward pass per component, on 128 samples",
    "increase of the loss without the component",
    former_name="measured",
)
def ablation(adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int) -> Floats:
    """Return the loss increase without each component, as a share of their sum, float64 [num_modules, r_max].

    Negative increases count as 0. `ABLATION_FLOOR` times the share of the squared singular value is added.
    """
    increases = _normalised(np.maximum(loss_increases(adapted, data, device, batch_size), 0.0))
    return increases + ABLATION_FLOOR * _normalised(singular_value(adapted, data, device, batch_size))


def loss_increases(
    adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int, *, num_samples: int = 128
) -> Floats:
    """Return the increase of the loss without one component, all others in place, nats, float64 [num_modules, r_max].

    Costs one forward pass over the chosen samples per component: 288 for 36 modules of rank 8. Noise can make an
    increase negative.

    Args:
        adapted: Model with the adapter, at any ranks. It stays at full rank.
        data: Calibration samples, on which the adapter was not trained.
        device: Device of the model.
        batch_size: Samples per forward pass.
        num_samples: Largest number of samples to use. They are spaced evenly over all samples, sorted by length.
    """
    adapted.set_ranks([adapted.r_max] * len(adapted.shapes))
    adapted.model.eval()
    order = np.argsort(data.lengths, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(num_samples, len(order))).round().astype(np.int64)]
    batches = [data.batch(chosen[start : start + batch_size], device) for start in range(0, len(chosen), batch_size)]

    def loss() -> float:
        losses = [float(data.task.batch_loss(adapted.model, batch)) for batch in batches]
        return float(np.average(losses, weights=[data.task.num_targets(batch) for batch in batches]))

    increases = np.zeros((len(adapted.shapes), adapted.r_max))
    with torch.no_grad():
        whole = loss()
        for row, update in enumerate(adapted.updates.values()):
            for component in range(adapted.r_max):
                value = update.lam[component].clone()
                update.lam[component] = 0.0
                try:
                    increases[row, component] = loss() - whole
                finally:
                    update.lam[component] = value
    return increases


@dataclass(frozen=True, slots=True)
class GateIntegrals:
    r"""Integrals of the gates' gradients over the value of all gates, from 0 to 1.

    Args:
        loss: $\int -g_k\,d\gamma$, loss that the component removes, nats, float64 [num_modules, r_max]. Negative for a
            harmful component.
        squared: $\int \overline{g_k^2}\,d\gamma$, integral of the squared gradient, float64 [num_modules, r_max].
    """

    loss: Floats
    squared: Floats


def integrate_gates(
    adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int, *, num_points: int
) -> GateIntegrals:
    """Return the integrals of the gates' gradients by Gauss-Legendre quadrature.

    The adapter keeps its values. The model stays at full rank.

    Args:
        adapted: Model with the adapter, at any ranks.
        data: Calibration samples, on which the adapter was not trained.
        device: Device of the model.
        batch_size: Samples per forward and backward pass.
        num_points: Number of gate values. Each costs a forward and a backward pass over `data`.
    """
    nodes, shares = np.polynomial.legendre.leggauss(num_points)
    loss, squared = (np.zeros((len(adapted.shapes), adapted.r_max)) for _ in range(2))
    values = [update.lam.detach().clone() for update in adapted.updates.values()]
    try:
        for gate, share in zip((nodes + 1.0) / 2.0, shares / 2.0, strict=True):
            with torch.no_grad():
                for update, lam in zip(adapted.updates.values(), values, strict=True):
                    update.lam.copy_(gate * lam)
            found = _gate_gradients(adapted, data, device, batch_size)
            # The accumulator takes gradients with respect to a gate of 1 on the scaled adapter.
            loss -= share * found.gradient() / gate
            squared += share * found.squared_gradient() / gate**2
    finally:
        with torch.no_grad():
            for update, lam in zip(adapted.updates.values(), values, strict=True):
                update.lam.copy_(lam)
    return GateIntegrals(loss, squared)


def _gate_gradients(
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


def _normalised(values: Floats) -> Floats:
    return values / max(float(values.sum()), 1e-300)


def measure_explained_variance(
    adapted: AdaptedModel, data: EncodedData, device: torch.device, batch_size: int
) -> Floats:
    """Return the explained variance ratio of the inputs of every module over `data`, float64 [num_modules, r_max].

    Only the base model runs, as in EVA: the result does not depend on fine-tuning. See `explained_variance_ratio`.

    Args:
        adapted: Model with the adapter, at any ranks.
        data: Samples whose activations are measured.
        device: Device of the model.
        batch_size: Samples per forward pass.
    """
    batches = [data.batch(indices, device) for indices in data.in_order(batch_size)]
    return explained_variance_ratio(adapted, batches)
