r"""Rounding of values to symbols, with and without error feedback.

Notation: x value; Δ step; k symbol; λ trade-off in squared steps per bit; ℓ(k) code length of k in bits.

* **Nearest.** k is the integer nearest to x / Δ.
* **Stochastic.** k is one of the two integers around x / Δ, drawn so that its expected value is x / Δ.
* **Rate-distortion.** k minimises the squared error plus λ times the code length:

  $$\min_k (x / \Delta - k)^2 + \lambda\, \ell(k), \qquad |k| \in \{n, n - 1\},\ n = \text{nearest}$$

  It also centres the values of a bin on the bin's middle. Decoder-side shifts of the reconstruction points would
  therefore gain less than 0.1 dB.
* **Error feedback.** With an error metric (see `metric`), values are rounded one after the other. Each value first
  compensates the errors of the values before it. The value that is rounded is

  $$z_i = x_i + \sum_{j<i} \frac{W_{ji}}{W_{ii}} e_j, \qquad e_j = x_j - k_j \Delta$$

  and k minimises $W_{ii}^2\,(z_i / \Delta - k)^2 + \lambda\, \ell(k)$. Where inputs of a layer are correlated, the
  errors then cancel in the output of the layer. The decoder is not affected.

Source: Frantar et al. 2023 (GPTQ) and Chee et al. 2023 (QuIP, LDLQ) for rounding with error feedback.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.codec.encoder.costs import MAX_COST_SYMBOL, choose_tables, code_lengths, row_histograms
from airlora.codec.encoder.metric import ErrorMetric, squared_norms
from airlora.codec.format.quantiser import MAX_SYMBOL, dequantise, step_sizes

__all__ = [
    "TRADEOFF",
    "VALUES_PER_BATCH",
    "QuantisedRows",
    "Rounding",
    "RowGroup",
    "quantise_groups",
    "round_nearest",
    "round_rate_distortion",
    "round_stochastic",
    "round_with_feedback",
]

TRADEOFF = 0.12
"""Trade-off λ in squared steps per bit. The SNR is within 0.02 dB of that of the best λ from 1 to 4 bits per value."""

VALUES_PER_BATCH = 1 << 20
"""Number of values that are encoded together. It bounds the memory: a value takes about 100 bytes meanwhile."""

_VALUES_PER_CHUNK = 1 << 20
_PANEL = 32


class Rounding(enum.StrEnum):
    """Method that rounds values to symbols.

    With an error metric, `RATE_DISTORTION` and `NEAREST` use error feedback, and `RATE_DISTORTION` has the smaller
    error in the metric at equal size. However, it moves values towards zero, so that all vectors become shorter. The
    metric of a single vector does not account for the sum of this shrinkage over all components. The decoded model
    has a lower loss with `NEAREST`, unless quantisation-aware fine-tuning has compensated for the shrinkage.
    """

    RATE_DISTORTION = "rate-distortion"
    NEAREST = "nearest"
    STOCHASTIC = "stochastic"


# Roundings after the first, without and with an error metric. Rounding with feedback spreads the symbols, so that
# other tables become best; it is repeated where the code length matters.
_NUM_PASSES = {Rounding.RATE_DISTORTION: (1, 2), Rounding.NEAREST: (0, 1), Rounding.STOCHASTIC: (0, 0)}


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Vectors of one length that share an error metric.

    Args:
        values: Finite values, [rows, length].
        step_indices: Step index of each row, [rows].
        metric: Error metric of the rows. None uses the Euclidean norm without error feedback.
    """

    values: NDArray[Any]
    step_indices: NDArray[Any]
    metric: ErrorMetric | None = None


@dataclass(frozen=True, slots=True)
class QuantisedRows:
    """Quantised vectors.

    Args:
        symbols: Symbols, int32 [rows, length].
        tables: Entropy table of each row, [rows].
        bits: Code length of each row under its table, in bits, [rows].
        squared_errors: Squared error of each row in the metric, in the unit of the squared values, [rows].
    """

    symbols: NDArray[np.int32]
    tables: NDArray[np.int64]
    bits: NDArray[np.float64]
    squared_errors: NDArray[np.float64]


def quantise_groups(
    groups: Sequence[RowGroup], *, rounding: Rounding = Rounding.RATE_DISTORTION
) -> list[QuantisedRows]:
    """Return the rows of each group quantised with their steps, each row with its best entropy table.

    Error feedback rounds one value after the other, so that its time depends on the length of the vectors more than on
    their number. All groups are therefore rounded together.

    Args:
        groups: Vectors and their steps.
        rounding: Rounding method. `STOCHASTIC` draws from a generator with seed 0 for each group.
    """
    results: list[QuantisedRows] = []
    waiting: list[RowGroup] = []
    for group in groups:
        if group.metric is None or not _NUM_PASSES[rounding][1]:
            results += _quantise_with_feedback(waiting, rounding)
            results.append(_quantise_plainly(group, rounding))
            waiting = []
            continue
        waiting.append(group)
        if sum(own.values.size for own in waiting) >= VALUES_PER_BATCH:
            results += _quantise_with_feedback(waiting, rounding)
            waiting = []
    return results + _quantise_with_feedback(waiting, rounding)


def _quantise_with_feedback(groups: Sequence[RowGroup], rounding: Rounding) -> list[QuantisedRows]:
    """Return the rows of groups with an error metric, quantised together."""
    if not groups:
        return []
    symbols = [round_nearest(group.values, group.step_indices) for group in groups]
    best = _choose_tables_of_groups(symbols)
    for _ in range(_NUM_PASSES[rounding][1]):
        symbols = round_with_feedback(groups, [tables for tables, _ in best], tradeoff=_tradeoff(rounding))
        best = _choose_tables_of_groups(symbols)
    return [_measured(group, rows, *own) for group, rows, own in zip(groups, symbols, best, strict=True)]


def _quantise_plainly(group: RowGroup, rounding: Rounding) -> QuantisedRows:
    """Return the rows of a group quantised without error feedback, in chunks of rows."""
    generator = np.random.default_rng(0)
    rows, length = group.values.shape
    rows_per_chunk = max(1, _VALUES_PER_CHUNK // max(length, 1))
    parts = []
    for start in range(0, max(rows, 1), rows_per_chunk):
        chunk = slice(start, start + rows_per_chunk)
        own = replace(group, values=group.values[chunk], step_indices=group.step_indices[chunk])
        if rounding is Rounding.STOCHASTIC:
            symbols = round_stochastic(own.values, own.step_indices, generator)
        else:
            symbols = round_nearest(own.values, own.step_indices)
        tables, bits = choose_tables(row_histograms(symbols))
        for _ in range(_NUM_PASSES[rounding][0]):
            symbols = round_rate_distortion(own.values, own.step_indices, tables, tradeoff=_tradeoff(rounding))
            tables, bits = choose_tables(row_histograms(symbols))
        parts.append(_measured(own, symbols, tables, bits))
    return parts[0] if len(parts) == 1 else _joined(parts)


def _choose_tables_of_groups(
    symbols: Sequence[NDArray[np.int32]],
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return the best table of each row and its code length in bits, for each group of symbols."""
    own = [row_histograms(rows) for rows in symbols]
    ends = np.cumsum([len(histograms) for histograms in own])
    joint = np.zeros((int(ends[-1]), max(histograms.shape[1] for histograms in own)), dtype=np.float32)
    for end, histograms in zip(ends.tolist(), own, strict=True):
        joint[end - len(histograms) : end, : histograms.shape[1]] = histograms
    tables, bits = choose_tables(joint)
    return list(zip(np.split(tables, ends[:-1]), np.split(bits, ends[:-1]), strict=True))


def _measured(
    group: RowGroup, symbols: NDArray[np.int32], tables: NDArray[np.int64], bits: NDArray[np.float64]
) -> QuantisedRows:
    errors = dequantise(symbols, group.step_indices)
    errors -= group.values
    return QuantisedRows(symbols, tables, bits, squared_norms(errors, group.metric))


def _joined(parts: Sequence[QuantisedRows]) -> QuantisedRows:
    names = [own.name for own in fields(QuantisedRows)]
    return QuantisedRows(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _tradeoff(rounding: Rounding) -> float:
    return TRADEOFF if rounding is Rounding.RATE_DISTORTION else 0.0


def round_nearest(values: NDArray[Any], step_indices: NDArray[Any]) -> NDArray[np.int32]:
    """Return the nearest symbol of each value, int32 [rows, length].

    Args:
        values: Finite values, [rows, length].
        step_indices: Step index of each row, [rows].
    """
    return _clip(np.rint(_in_steps(values, step_indices)))


def round_stochastic(
    values: NDArray[Any], step_indices: NDArray[Any], generator: np.random.Generator
) -> NDArray[np.int32]:
    """Return symbols whose expected value is the value in steps, int32 [rows, length].

    Args:
        values: Finite values, [rows, length].
        step_indices: Step index of each row, [rows].
        generator: NumPy generator that draws between the two neighbours.
    """
    scaled = _in_steps(values, step_indices)
    low = np.floor(scaled)
    return _clip(low + (generator.random(scaled.shape, dtype=np.float32) < scaled - low))


def round_rate_distortion(
    values: NDArray[Any], step_indices: NDArray[Any], tables: NDArray[Any], *, tradeoff: float
) -> NDArray[np.int32]:
    """Return the symbols with the smallest sum of squared error and weighted code length, int32 [rows, length].

    Args:
        values: Finite values, [rows, length].
        step_indices: Step index of each row, [rows].
        tables: Entropy table of each row, [rows].
        tradeoff: λ in squared steps per bit, 0 or more. 0 rounds to the nearest symbol. The rate-distortion curve of
            a fine quantiser has the slope ln 2 / 6 = 0.116.
    """
    scaled = np.abs(_in_steps(values, step_indices))
    nearest = np.rint(scaled)
    if tradeoff == 0:
        return _clip(np.copysign(nearest, values))
    inner = np.maximum(nearest - 1, 0)
    lengths = code_lengths()[tables]
    rise = np.diff(lengths, axis=1, prepend=lengths[:, :1])  # code length of k minus that of k - 1
    saved = np.take_along_axis(rise, np.minimum(nearest, MAX_COST_SYMBOL).astype(np.int64), axis=1)
    # With s = x / Δ: (s - n + 1)^2 - (s - n)^2 = 2 (s - n) + 1
    is_moved = (2 * (scaled - nearest) + 1 < tradeoff * saved) & (nearest > 0)
    return _clip(np.copysign(np.where(is_moved, inner, nearest), values))


def round_with_feedback(
    groups: Sequence[RowGroup], tables: Sequence[NDArray[Any]], *, tradeoff: float
) -> list[NDArray[np.int32]]:
    """Return symbols with a small error in the metric at a small code length, int32 [rows, length] for each group.

    Args:
        groups: Vectors and their steps, each group with an error metric.
        tables: Entropy table of each row, [rows] for each group.
        tradeoff: λ in squared steps per bit, 0 or more. 0 rounds every z_i to the nearest symbol.
    """
    results, blocks = [], []
    metrics = [group.metric for group in groups if group.metric is not None]
    for group, metric, own in zip(groups, metrics, tables, strict=True):
        steps = step_sizes(np.asarray(group.step_indices)).astype(np.float64)
        scaled = group.values.T.astype(np.float64) / steps
        symbols = np.zeros(scaled.shape, dtype=np.int32)
        results.append(symbols)
        start = 0
        for factor in metric.factors:
            part = slice(start, start + len(factor))
            blocks.append(_Block(factor, scaled[part], own, symbols[part]))
            start += len(factor)
    # Shift of the decision threshold between k - 1 and k from the middle of both, times W_ii^2, for each table.
    lengths = code_lengths().astype(np.float64)
    shifts = tradeoff / 2 * np.diff(lengths, axis=1, prepend=lengths[:, :1])
    if blocks:
        _round_blocks(blocks, shifts)
    return [np.ascontiguousarray(symbols.T) for symbols in results]


@dataclass(frozen=True, slots=True)
class _Block:
    """Values that one diagonal block of a metric weights.

    Args:
        factor: W of the block, [n, n].
        scaled: Values in steps, [n, rows].
        tables: Entropy table of each row, [rows].
        symbols: Array that receives the symbols, [n, rows].
    """

    factor: NDArray[np.float32]
    scaled: NDArray[np.float64]
    tables: NDArray[Any]
    symbols: NDArray[np.int32]


def _round_blocks(blocks: Sequence[_Block], shifts: NDArray[np.float64]) -> None:
    """Round blocks together, in panels of `_PANEL` values. Smaller blocks are filled up to one size with zeros.

    Args:
        blocks: Blocks of at most n values.
        shifts: Shift of the decision threshold below each symbol, times W_ii^2, [tables, symbols].
    """
    size, rows = (max(block.scaled.shape[axis] for block in blocks) for axis in (0, 1))
    scaled = np.zeros((size, len(blocks), rows))
    tables = np.zeros((len(blocks), rows), dtype=np.intp)
    squared_diagonal = np.ones((size, len(blocks), 1))
    for index, block in enumerate(blocks):
        length, own_rows = block.scaled.shape
        scaled[:length, index, :own_rows] = block.scaled
        tables[index, :own_rows] = block.tables
        squared_diagonal[:length, index, 0] = np.square(np.diagonal(block.factor), dtype=np.float64)
    diagonal = np.sqrt(squared_diagonal)
    tables *= shifts.shape[1]
    flat_shifts, has_shifts = shifts.ravel(), bool(shifts.any())
    errors, chosen = np.zeros(scaled.shape), np.empty(scaled.shape)
    for first in range(0, size, _PANEL):
        end = min(first + _PANEL, size)
        targets = scaled[first:end].copy()
        within = np.zeros((end - first, end - first, len(blocks), 1))
        for index, block in enumerate(blocks):
            if first >= len(block.factor):
                continue
            columns = block.factor[:end, first:end]
            own = slice(len(columns.T))
            # In float32 the sums are exact to a millionth of a step.
            earlier = columns[:first].T @ errors[:first, index].astype(np.float32)
            targets[own, index] += earlier / diagonal[first:end, index][own]
            within[own, own, index, 0] = columns[first:]
        # Feedback of the error of value j of the panel on value i: W_ji / W_ii.
        within /= diagonal[first:end]
        for i in range(first, end):
            target = targets[i - first]
            magnitude = np.abs(target)
            nearest = np.minimum(np.rint(magnitude), MAX_SYMBOL)
            if has_shifts:
                shift = flat_shifts.take(tables + np.minimum(nearest, MAX_COST_SYMBOL).astype(np.intp))
                nearest -= (nearest > 0) & (magnitude - nearest + 0.5 < shift / squared_diagonal[i])
            np.copysign(nearest, target, out=chosen[i])
            np.subtract(scaled[i], chosen[i], out=errors[i])
            targets[i - first + 1 :] += within[i - first, i - first + 1 :] * errors[i]
    for index, block in enumerate(blocks):
        length, own_rows = block.scaled.shape
        block.symbols[:] = chosen[:length, index, :own_rows]


def _in_steps(values: NDArray[Any], step_indices: NDArray[Any]) -> NDArray[np.float32]:
    steps = step_sizes(np.asarray(step_indices))
    return np.asarray(values, dtype=np.float32) / steps[:, None]


def _clip(symbols: NDArray[Any]) -> NDArray[np.int32]:
    result: NDArray[np.int32] = np.clip(symbols, -MAX_SYMBOL, MAX_SYMBOL).astype(np.int32)
    return result
