r"""Choice of precision: rate-distortion optimisation with a Lagrange multiplier.

A component k of importance w_k increases the loss by w_k if it is not sent, and by $w_k (e_u + e_v)$ if it is sent.
Here e_u and e_v are the relative squared errors of its two vectors. The encoder minimises loss + μ bytes.

Notation: μ Lagrange multiplier, loss per byte; λ `TRADEOFF`, squared steps per bit; n_k norm of a vector; Δ_k step.

* **Step.** A quantiser that minimises squared error plus λ times bits is best used where λ is also the exchange rate
  between loss and bits. This holds from half a bit per value upwards. With |u| = |v| = n_k it gives

  $$\Delta_k = n_k \sqrt{\mu / (8 \lambda w_k)}$$

  One step therefore serves both vectors, and no search over steps is needed.
* **Selection.** A component is sent if it reduces the loss, by $w_k (1 - e_u - e_v)$, by more than μ times its bytes.
* **Order.** Components are sent by decreasing loss reduction per byte. The components of a module keep their order, so
  a component never has a higher density than its predecessor (see `monotone_densities`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from airlora.codec.encoder.metric import ErrorMetric, squared_norms
from airlora.codec.encoder.rounding import TRADEOFF, Rounding, RowGroup, quantise_groups
from airlora.codec.encoder.sources import DenseTensor, ModuleUpdate
from airlora.codec.format.quantiser import MAX_STEP_INDEX, MIN_STEP_INDEX, STEPS_PER_OCTAVE
from airlora.errors import CodecError

__all__ = [
    "MULTIPLIER_RATIO",
    "BitWidth",
    "LossModelCache",
    "OperatingPoint",
    "PrecisionSchedule",
    "choose_schedule",
    "find_multiplier",
    "monotone_densities",
    "steps_for_bits",
    "steps_for_multiplier",
]

BitWidth = Literal["auto", 32, 16, 8, 4]
"""Bits per value. "auto" optimises the precision of every component."""

MULTIPLIER_RATIO = 9.0
"""Ratio of the Lagrange multipliers of consecutive layers. A layer's step is a third of the previous layer's step."""

_SAMPLE_SIZE = 256
_MAX_CORRECTIONS = 3
_TOLERANCE_OCTAVES = 0.02
_TINY = float(np.finfo(np.float32).tiny)
_ITEM_OVERHEAD_BYTES = 5.0
_MAX_STEPS_PER_NORM = 1 << 16  # finer steps than the norm divided by this gain nothing over float32
# Estimated size of a stream: bytes of the items times the factor, for digests and fields, plus the stream header.
_OVERHEAD_FACTOR = 1.03
_HEADER_BYTES = 300


@dataclass(frozen=True, slots=True)
class PrecisionSchedule:
    """Precision of the values in every layer of a stream.

    Args:
        multiplier: Lagrange multiplier μ of the last layer, loss per byte. It determines the steps and the selection of
            components. None uses a fixed bit width and sends all components.
        bits: Fixed bit width: 32 and 16 send floats, other values quantise to about that many bits per value.
        layers: Number of layers, each of which refines the values of the previous ones.
    """

    multiplier: float | None = None
    bits: int = 8
    layers: int = 1

    @property
    def multipliers(self) -> list[float | None]:
        """Lagrange multiplier of every layer in decreasing order; a single None for a fixed bit width."""
        if self.multiplier is None:
            return [None]
        return [self.multiplier * MULTIPLIER_RATIO**layer for layer in reversed(range(self.layers))]


def choose_schedule(
    updates: Mapping[str, ModuleUpdate],
    tensors: Mapping[str, DenseTensor],
    *,
    bits: BitWidth = "auto",
    lagrange_multiplier: float | None = None,
    max_distortion: float = 0.1,
    max_bytes: int | None = None,
    layers: int = 1,
    rounding: Rounding = Rounding.RATE_DISTORTION,
    cache: LossModelCache | None = None,
) -> PrecisionSchedule:
    """Return the precision schedule that satisfies the options, see `EncodeOptions`.

    Args:
        updates: Components of each module.
        tensors: Dense tensors.
        bits: Bits per value. "auto" optimises the precision of every component.
        lagrange_multiplier: Lagrange multiplier μ, loss per byte. None derives it from the next two arguments.
        max_distortion: Share of the total importance that may be lost, above 0 and below 1.
        max_bytes: Approximate size of the stream, bytes. It replaces `max_distortion`.
        layers: Number of layers, 1 to 8.
        rounding: Rounding method.
        cache: Loss models of earlier calls with the same components, tensors and rounding.  None uses none.

    Raises:
        CodecError: The value of an option is not allowed.
    """
    if rounding not in list(Rounding):
        raise CodecError.of("rounding", str(rounding), ", ".join(Rounding))
    if type(layers) is not int or not 1 <= layers <= 8:
        raise CodecError.of("layers", layers, "1 to 8")
    if bits not in get_args(BitWidth):
        raise CodecError.of("bits", bits, "auto, 32, 16, 8 or 4")
    if bits != "auto":
        return PrecisionSchedule(bits=bits)
    if lagrange_multiplier is not None:
        if not 0 < lagrange_multiplier < float("inf"):
            raise CodecError.of("lagrange_multiplier", lagrange_multiplier, "a finite number above 0")
        return PrecisionSchedule(lagrange_multiplier, layers=layers)
    if not 0 < max_distortion < 1:
        raise CodecError.of("max_distortion", max_distortion, "a number above 0 and below 1")
    if max_bytes is not None and not 1 <= max_bytes < 2**63:
        raise CodecError.of("max_bytes", max_bytes, "a whole number, 1 or more and below 2^63")

    def is_sufficient(point: OperatingPoint) -> bool:
        if max_bytes is not None:
            return point.num_bytes * _OVERHEAD_FACTOR + _HEADER_BYTES >= max_bytes
        return point.loss <= max_distortion * point.total_loss

    found = find_multiplier(updates, tensors, is_sufficient=is_sufficient, rounding=Rounding(rounding), cache=cache)
    return PrecisionSchedule(found.multiplier, layers=layers)


def steps_for_multiplier(norms: NDArray[Any], importance: NDArray[Any], multiplier: float) -> NDArray[np.int64]:
    """Return the optimal step index of each vector at a Lagrange multiplier, see Δ_k above.

    Args:
        norms: Norm n_k of each vector, 0 or more, [r].
        importance: Importance w_k of each vector, 0 or more, [r].
        multiplier: Lagrange multiplier μ, above 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        importance = np.asarray(importance, dtype=np.float64)
        octaves = np.log2(norms) + (np.log2(multiplier) - np.log2(8 * TRADEOFF * importance)) / 2
        finest = np.log2(norms) - np.log2(_MAX_STEPS_PER_NORM)
    return _step_indices(np.maximum(octaves, finest))


def steps_for_bits(norms: NDArray[Any], length: int, bits: float) -> NDArray[np.int64]:
    r"""Return the step index at which a Gaussian vector takes about `bits` bits per value.

    $$\Delta = \sigma \sqrt{2 \pi e}\, 2^{-b}, \qquad \sigma = n / \sqrt{d}$$

    Args:
        norms: Norm n of each vector, 0 or more, [r].
        length: Length d of the vectors.
        bits: Bits per value b, about 2 or more.
    """
    with np.errstate(divide="ignore"):
        octaves = np.log2(norms) - np.log2(length) / 2 + np.log2(2 * np.pi * np.e) / 2 - bits
    return _step_indices(octaves)


def _step_indices(octaves: NDArray[Any]) -> NDArray[np.int64]:
    indices = np.nan_to_num(
        np.rint(STEPS_PER_OCTAVE * octaves), nan=MAX_STEP_INDEX, posinf=MAX_STEP_INDEX, neginf=MIN_STEP_INDEX
    )
    result: NDArray[np.int64] = np.clip(indices, MIN_STEP_INDEX, MAX_STEP_INDEX).astype(np.int64)
    return result


def monotone_densities(loss_reductions: NDArray[Any], sizes: NDArray[Any]) -> NDArray[np.float64]:
    """Return loss reductions per byte that do not increase along a module.

    Consecutive components that violate the order share the density of their group (isotonic regression).

    Args:
        loss_reductions: Loss reduction of each component of a module in order, [r].
        sizes: Size of each component in bytes, above 0, [r].

    Examples:
        >>> monotone_densities(np.array([2.0, 1.0, 4.0]), np.array([1.0, 1.0, 1.0])).round(3).tolist()
        [2.333, 2.333, 2.333]
    """
    result: NDArray[np.float64] = isotonic_regression(loss_reductions / sizes, weights=sizes, increasing=False).x
    return result


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Expected size and loss of the stream that is optimal at a Lagrange multiplier.

    Args:
        multiplier: Lagrange multiplier μ, loss per byte.
        num_bytes: Size of all items in bytes.
        loss: Increase of the loss by rounding errors and by components and tensors that are not sent.
        total_loss: Increase of the loss if nothing is sent.
    """

    multiplier: float
    num_bytes: float
    loss: float
    total_loss: float


def find_multiplier(
    updates: Mapping[str, ModuleUpdate],
    tensors: Mapping[str, DenseTensor],
    *,
    is_sufficient: Callable[[OperatingPoint], bool],
    rounding: Rounding = Rounding.RATE_DISTORTION,
    cache: LossModelCache | None = None,
) -> OperatingPoint:
    """Return the operating point with the largest Lagrange multiplier that is sufficient.

    The search rounds a sample of the values of every vector, without error metrics. If a module has error metrics,
    all values are then rounded with the multiplier found. The search is repeated with the size and the loss of the
    sample rescaled to these results.

    Args:
        updates: Components of each module.
        tensors: Dense tensors.
        is_sufficient: Whether an operating point satisfies the constraint. If it is true for a multiplier, it must be
            true for all smaller ones.
        rounding: Rounding method.
        cache: Loss models of earlier calls with the same components, tensors and rounding.  None uses none.
    """
    cache = {} if cache is None else cache
    if not cache:
        cache["sample"] = _LossModel(updates, tensors, rounding, sample_size=_SAMPLE_SIZE)
    sample = cache["sample"]
    sample.byte_scale = sample.loss_scale = 1.0
    found = _largest_multiplier(sample, is_sufficient)
    if all(update.metrics is None for update in updates.values()):
        return found
    if "full" not in cache:
        cache["full"] = _LossModel(updates, tensors, rounding)
    full = cache["full"]
    for _ in range(_MAX_CORRECTIONS):
        exact, estimate = full.operating_point(found.multiplier), sample.operating_point(found.multiplier)
        if not estimate.num_bytes or not estimate.loss:
            break
        sample.byte_scale *= exact.num_bytes / estimate.num_bytes
        sample.loss_scale *= exact.loss / estimate.loss
        found = _largest_multiplier(sample, is_sufficient)
        if abs(np.log2(found.multiplier / exact.multiplier)) < _TOLERANCE_OCTAVES:
            break
    return found


def _largest_multiplier(model: _LossModel, is_sufficient: Callable[[OperatingPoint], bool]) -> OperatingPoint:
    # At the upper bound nothing is worth a byte; at the lower bound all values have 16 bits.
    high = np.log2(max(model.total_loss, np.finfo(np.float64).tiny))
    low = high - 64
    for _ in range(14):
        middle = (low + high) / 2
        if is_sufficient(model.operating_point(float(2.0**middle))):
            low = middle
        else:
            high = middle
    return model.operating_point(float(2.0**low))


@dataclass(frozen=True, slots=True)
class _Vectors:
    """Vectors of one kind (u, v or a tensor) of all components of a target."""

    rows: NDArray[np.float32]
    metric: ErrorMetric | None
    norms: NDArray[np.float64]
    error_scales: NDArray[np.float64]  # relative squared error per squared error of `rows`
    size_scale: float  # length of the vectors divided by that of `rows`


class _LossModel:
    """Expected size and loss as functions of the Lagrange multiplier.

    Vectors of one length without an error metric are joined: with short vectors, calls cost more than the rounding.
    Results are kept by their steps, since nearby multipliers lead to the same steps.

    Args:
        updates: Components of each module.
        tensors: Dense tensors.
        rounding: Rounding method.
        sample_size: Approximate number of values of each vector that are rounded, without the error metric. None rounds
            all values with the error metric.

    Attributes:
        byte_scale: Correction factor of the expected size.
        loss_scale: Correction factor of the expected loss.
    """

    def __init__(
        self,
        updates: Mapping[str, ModuleUpdate],
        tensors: Mapping[str, DenseTensor],
        rounding: Rounding,
        sample_size: int | None = None,
    ) -> None:
        self._rounding, self._sample_size = rounding, sample_size
        self.byte_scale = self.loss_scale = 1.0
        self._targets: list[tuple[NDArray[np.float64], float, list[_Vectors]]] = []
        for update in updates.values():
            vectors = [self._vectors(*pair) for pair in zip(update.balanced(), update.metric_pair, strict=True)]
            self._targets.append((np.asarray(update.importance, dtype=np.float64), _ITEM_OVERHEAD_BYTES, vectors))
        for tensor in tensors.values():
            vectors = [self._vectors(tensor.values.astype(np.float32).reshape(1, -1), None)]
            self._targets.append((np.array([tensor.importance], dtype=np.float64), 0.0, vectors))
        self.total_loss = float(sum(importance.sum() for importance, _, _ in self._targets))
        groups: dict[object, list[_Vectors]] = {}
        for own in (own for _, _, vectors in self._targets for own in vectors):
            is_shared = own.metric is None and rounding is not Rounding.STOCHASTIC
            groups.setdefault(own.rows.shape[1] if is_shared else id(own), []).append(own)
        self._groups = [(np.concatenate([own.rows for own in group]), group) for group in groups.values()]
        self._quantised: dict[tuple[int, bytes], tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        self._points: dict[float, tuple[float, float]] = {}

    def _vectors(self, rows: NDArray[np.float32], metric: ErrorMetric | None) -> _Vectors:
        energies = squared_norms(rows, metric)
        norms, energies = np.sqrt(energies), np.maximum(energies, _TINY)
        if self._sample_size is None:
            return _Vectors(rows, metric, norms, 1 / energies, 1.0)
        sample = np.ascontiguousarray(rows[:, :: max(1, rows.shape[1] // self._sample_size)])
        scales = 1 / np.maximum(squared_norms(sample, None), _TINY)
        if metric is not None:
            scales *= squared_norms(rows, None) * metric.mean_squared_diagonal / energies
        return _Vectors(sample, None, norms, scales, rows.shape[1] / sample.shape[1])

    def operating_point(self, multiplier: float) -> OperatingPoint:
        if multiplier not in self._points:
            self._points[multiplier] = self._measure(multiplier)
        num_bytes, loss = self._points[multiplier]
        return OperatingPoint(multiplier, self.byte_scale * num_bytes, self.loss_scale * loss, self.total_loss)

    def _measure(self, multiplier: float) -> tuple[float, float]:
        """Return size and loss at a multiplier, without the correction factors."""
        num_bytes = loss = 0.0
        quantised = self._quantise(multiplier)
        for importance, overhead_bytes, vectors in self._targets:
            sizes, losses = np.full(len(importance), overhead_bytes), np.zeros(len(importance))
            for own in vectors:
                bits, squared_errors = quantised[id(own)]
                sizes += bits * own.size_scale / 8
                losses += importance * np.minimum(squared_errors * own.error_scales, 1)
            is_sent = monotone_densities(importance - losses, sizes) > multiplier
            num_bytes += float(sizes[is_sent].sum())
            loss += float(losses[is_sent].sum() + importance[~is_sent].sum())
        return num_bytes, loss

    def _quantise(self, multiplier: float) -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Return the bits and the squared errors of the vectors by `id`."""
        steps = {
            id(own): steps_for_multiplier(own.norms, importance, multiplier)
            for importance, _, vectors in self._targets
            for own in vectors
        }
        joint = [np.concatenate([steps[id(own)] for own in group]) for _, group in self._groups]
        keys = [(index, own.tobytes()) for index, own in enumerate(joint)]
        missing = [index for index, key in enumerate(keys) if key not in self._quantised]
        groups = [RowGroup(self._groups[index][0], joint[index], self._groups[index][1][0].metric) for index in missing]
        for index, found in zip(missing, quantise_groups(groups, rounding=self._rounding), strict=True):
            self._quantised[keys[index]] = found.bits, found.squared_errors
        measured = {}
        for key, (_, group) in zip(keys, self._groups, strict=True):
            ends = np.cumsum([len(own.rows) for own in group])[:-1]
            pairs = zip(*(np.split(values, ends) for values in self._quantised[key]), strict=True)
            measured.update({id(own): pair for own, pair in zip(group, pairs, strict=True)})
        return measured


LossModelCache = dict[str, _LossModel]
"""Loss models by name, filled by `find_multiplier`."""
