r"""Which numbers are worth their bytes, how fine, and in which order: rate-distortion planning.

A component k of weight w_k costs the loss $w_k (e_u + e_v)$, with e the relative squared errors of its two vectors, and
w_k if it is not sent.  The plan minimises loss + μ bytes for a price μ.

* **Step.**  A quantiser whose rounding weighs squared error against bits at λ squared steps per bit is best used where
  this is also the exchange rate of loss and bits, at any rate from half a bit up.  With |u| = |v| = n this gives

  $$\Delta_k = n_k \sqrt{\mu / (8 \lambda w_k)}$$

  so one step serves both vectors, and no search over steps is needed.
* **Whether.**  A component is sent if its gain $w_k (1 - e_u - e_v)$ is above μ times its bytes.
* **Order.**  By gain per byte.  Inside a module components keep their order: where a later one gains more per byte than
  the one before, the two count as one.

Notation: μ loss per byte; λ `TRADEOFF`; e squared error over squared norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from airlora.codec.encoder.metric import ErrorMetric, squared_norms
from airlora.codec.encoder.rounding import TRADEOFF, Rounding, code_rows
from airlora.codec.encoder.sources import HeadTensor, ModuleUpdate
from airlora.codec.format.quantiser import MAX_STEP_INDEX, MIN_STEP_INDEX, STEPS_PER_OCTAVE
from airlora.errors import CodecError

__all__ = [
    "PRICE_RATIO",
    "Bits",
    "Budgeted",
    "Ladder",
    "find_price",
    "nominal_steps",
    "priced_steps",
    "resolve_precision",
    "respect_order",
]

_SAMPLE = 256
_CORRECTIONS = 3
_CLOSE_OCTAVES = 0.02
_TINY = float(np.finfo(np.float32).tiny)
_HEADER_BYTES = 5.0
_LARGEST_RATIO = 1 << 16  # numbers per step: finer steps than this gain nothing over float32


def priced_steps(norms: NDArray[Any], weights: NDArray[Any], price: float) -> NDArray[np.int64]:
    """Return the step index of each vector at a price; see the module's equation for Δ_k.

    Args:
        norms: n_k, >= 0.
        weights: w_k, >= 0.
        price: μ, > 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        octaves = np.log2(norms) + (np.log2(price) - np.log2(8 * TRADEOFF * np.asarray(weights, dtype=np.float64))) / 2
        finest = np.log2(norms) - np.log2(_LARGEST_RATIO)
    indices = np.rint(STEPS_PER_OCTAVE * np.maximum(octaves, finest))
    indices = np.nan_to_num(indices, nan=MAX_STEP_INDEX, posinf=MAX_STEP_INDEX, neginf=MIN_STEP_INDEX)
    result: NDArray[np.int64] = np.clip(indices, MIN_STEP_INDEX, MAX_STEP_INDEX).astype(np.int64)
    return result


def respect_order(gains: NDArray[Any], sizes: NDArray[Any]) -> NDArray[np.float64]:
    """Return gain per byte with later ones never above earlier ones: neighbours that violate it are pooled.

    Args:
        gains: Of each component of a module, in order.
        sizes: Bytes of each, > 0.

    >>> respect_order(np.array([2.0, 1.0, 4.0]), np.array([1.0, 1.0, 1.0])).tolist()
    [2.3333333333333335, 2.3333333333333335, 2.3333333333333335]
    """
    pools: list[tuple[float, float, int]] = []
    for gain, size in zip(gains, sizes, strict=True):
        pool = (float(gain), float(size), 1)
        while pools and pools[-1][0] * pool[1] < pool[0] * pools[-1][1]:
            last = pools.pop()
            pool = (last[0] + pool[0], last[1] + pool[1], last[2] + pool[2])
        pools.append(pool)
    return np.array([gain / size for gain, size, count in pools for _ in range(count)], dtype=np.float64)


def nominal_steps(norms: NDArray[Any], lengths: int, bits: float) -> NDArray[np.int64]:
    r"""Return the step index at which a Gaussian vector takes about `bits` a number.

    $$\Delta = \sigma \sqrt{2 \pi e}\, 2^{-b}$$

    Args:
        norms: n_k, >= 0.
        lengths: Numbers per vector, so that σ = n / sqrt(length).
        bits: b, from about 2 up.
    """
    with np.errstate(divide="ignore"):
        octaves = np.log2(norms) - np.log2(lengths) / 2 + np.log2(2 * np.pi * np.e) / 2 - bits
    indices = np.nan_to_num(np.rint(STEPS_PER_OCTAVE * octaves), neginf=MIN_STEP_INDEX)
    result: NDArray[np.int64] = np.clip(indices, MIN_STEP_INDEX, MAX_STEP_INDEX).astype(np.int64)
    return result


Bits = Literal["auto", 32, 16, 8, 4]
PRICE_RATIO = 9.0
"""R: a layer has a third of the step of the one before."""
# Digests and fields beside the numbers, and the header; only to aim at `max_bytes`.
_OVERHEAD = 1.03
_HEAD_BYTES = 300


@dataclass(frozen=True, slots=True)
class Ladder:
    """How fine numbers are sent.

    Args:
        price: μ, loss per byte: steps follow from it, and what is not worth its bytes is left out.
        bits: Used if `price` is None; the same for every number and all are sent: 32 and 16 as floats, others as about
            that many bits a number.
        layers: L, prices on the ladder; 1 sends everything once.
    """

    price: float | None = None
    bits: int = 8
    layers: int = 1

    @property
    def prices(self) -> list[float | None]:
        """The prices from high to low; a single None for a precision in bits."""
        if self.price is None:
            return [None]
        return [self.price * PRICE_RATIO**layer for layer in reversed(range(self.layers))]


def resolve_precision(
    updates: Mapping[str, ModuleUpdate],
    tensors: Mapping[str, HeadTensor],
    *,
    bits: Bits = "auto",
    price: float | None = None,
    max_distortion: float = 0.1,
    max_bytes: int | None = None,
    layers: int = 1,
    rounding: Rounding = Rounding.RATE_DISTORTION,
) -> Ladder:
    """Return how fine `EncodeOptions` ask for."""
    if rounding not in list(Rounding):
        raise CodecError.of("rounding", str(rounding), ", ".join(Rounding))
    if type(layers) is not int or not 1 <= layers <= 8:
        raise CodecError.of("layers", layers, "1 to 8")
    if bits not in get_args(Bits):
        raise CodecError.of("bits", bits, "auto, 32, 16, 8 or 4")
    if bits != "auto":
        return Ladder(bits=bits)
    if price is not None:
        if not 0 < price < float("inf"):
            raise CodecError.of("price", price, "a number above 0")
        return Ladder(price, layers=layers)
    if not 0 < max_distortion < 1:
        raise CodecError.of("max_distortion", max_distortion, "a number above 0 and below 1")
    if max_bytes is not None and not 1 <= max_bytes < 2**63:
        raise CodecError.of("max_bytes", max_bytes, "a whole number, 1 or more and below 2^63")

    def is_enough(bought: Budgeted) -> bool:
        if max_bytes is not None:
            return bought.num_bytes * _OVERHEAD + _HEAD_BYTES >= max_bytes
        return bought.loss <= max_distortion * bought.total

    return Ladder(find_price(updates, tensors, is_enough=is_enough, rounding=Rounding(rounding)).price, layers=layers)


@dataclass(frozen=True, slots=True)
class Budgeted:
    """What a price is expected to buy.

    Args:
        price: μ, loss per byte.
        num_bytes: Of all items.
        loss: Added by all errors and by what is not sent.
        total: Loss if nothing were sent.
    """

    price: float
    num_bytes: float
    loss: float
    total: float


class _Rows:
    """All vectors, or a few numbers of each, so that many prices can be tried.

    Args:
        updates: The components.
        tensors: The head.
        rounding: How numbers are rounded.
        sample: About how many numbers of a vector are looked at; None: all, rounded in their metric.  A few cannot be,
            so then errors are what they would be if none were undone.
    """

    def __init__(
        self,
        updates: Sequence[ModuleUpdate],
        tensors: Sequence[HeadTensor],
        rounding: Rounding,
        sample: int | None = None,
    ) -> None:
        self._sample, self._rounding = sample, rounding
        self._rows: list[_Entry] = []
        for update in updates:
            for rows, metric in zip(update.balanced(), update.metric_pair, strict=True):
                self._add(rows, update.weights, metric)
        self._num_modules = len(updates)
        for tensor in tensors:
            self._add(tensor.values.astype(np.float32).reshape(1, -1), np.array([tensor.weight]), None)
        self._updates, self._tensors = updates, tensors
        self.total = float(sum(u.weights.sum() for u in updates) + sum(t.weight for t in tensors))

    def _add(self, rows: NDArray[np.float32], weights: NDArray[Any], metric: ErrorMetric | None) -> None:
        length = rows.shape[1]
        kept = rows if self._sample is None else np.ascontiguousarray(rows[:, :: max(1, length // self._sample)])
        energies = squared_norms(rows, metric)
        if self._sample is None:
            scales = np.ones(len(rows))
        else:
            undone = np.ones(len(rows)) if metric is None else squared_norms(rows, None) * metric.mean_energy / energies
            scales = undone / np.maximum(squared_norms(kept, None), _TINY) * np.maximum(energies, _TINY)
        self._rows.append(_Entry(kept, energies, scales, np.asarray(weights, dtype=np.float64), length, metric))

    def at(self, price: float) -> Budgeted:
        """Return what `price` buys."""
        costs = [self._cost(entry, price) for entry in self._rows]
        num_bytes = loss = 0.0
        for m, update in enumerate(self._updates):
            (bytes_u, loss_u), (bytes_v, loss_v) = costs[2 * m], costs[2 * m + 1]
            sizes, losses = bytes_u + bytes_v + _HEADER_BYTES, loss_u + loss_v
            kept = respect_order(update.weights - losses, sizes) > price
            num_bytes += float(sizes[kept].sum())
            loss += float(losses[kept].sum() + update.weights[~kept].sum())
        for t, tensor in enumerate(self._tensors):
            size, added = (float(value[0]) for value in costs[2 * self._num_modules + t])
            kept_tensor = tensor.weight - added > price * size
            num_bytes += size * kept_tensor
            loss += added if kept_tensor else tensor.weight
        return Budgeted(price, num_bytes, loss, self.total)

    def _cost(self, entry: _Entry, price: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        steps = priced_steps(np.sqrt(entry.energies), entry.weights, price)
        metric = entry.metric if self._sample is None else None
        coded = code_rows(entry.rows, steps, rounding=self._rounding, metric=metric)
        errors = coded.squared_errors * entry.scales / np.maximum(entry.energies, _TINY)
        return coded.bits * (entry.length / entry.rows.shape[1]) / 8, entry.weights * np.minimum(errors, 1)


@dataclass(frozen=True, slots=True)
class _Entry:
    rows: NDArray[np.float32]
    energies: NDArray[np.float64]
    scales: NDArray[np.float64]
    weights: NDArray[np.float64]
    length: int
    metric: ErrorMetric | None


def find_price(
    updates: Mapping[str, ModuleUpdate],
    tensors: Mapping[str, HeadTensor],
    *,
    is_enough: Callable[[Budgeted], bool],
    rounding: Rounding = Rounding.RATE_DISTORTION,
) -> Budgeted:
    """Return the highest price that buys enough.

    A few numbers of every vector tell; with metrics they tell how bytes and loss change with the price alone, and how
    much they are is found by rounding all.

    Args:
        updates: The components of each module.
        tensors: The head.
        is_enough: Whether what a price buys will do; must stay true as the price falls.
        rounding: How numbers are rounded.
    """
    sources = list(updates.values()), list(tensors.values()), rounding
    sample = _Rows(*sources, sample=_SAMPLE)
    found = _highest_price(sample.at, sample.total, is_enough)
    if any(update.metrics is not None for update in updates.values()):
        whole = _Rows(*sources)
        for _ in range(_CORRECTIONS):
            true, guess, before = whole.at(found.price), sample.at(found.price), found.price
            if not guess.num_bytes or not guess.loss:  # nothing is sent, or nothing lost: there is no rate to scale
                break
            corrected = partial(_scaled, sample, true.num_bytes / guess.num_bytes, true.loss / guess.loss)
            found = _highest_price(corrected, sample.total, is_enough)
            if abs(np.log2(found.price / before)) < _CLOSE_OCTAVES:
                break
    return found


def _scaled(sample: _Rows, byte_scale: float, loss_scale: float, price: float) -> Budgeted:
    guess = sample.at(price)
    return replace(guess, num_bytes=guess.num_bytes * byte_scale, loss=guess.loss * loss_scale)


def _highest_price(at: Callable[[float], Budgeted], total: float, is_enough: Callable[[Budgeted], bool]) -> Budgeted:
    # Between "nothing is worth its bytes" and "everything at 16 bits".
    high = np.log2(max(total, np.finfo(np.float64).tiny))
    low = high - 64
    for _ in range(14):
        middle = (low + high) / 2
        if is_enough(at(float(2.0**middle))):
            low = middle
        else:
            high = middle
    return at(float(2.0**low))
