r"""Successive refinement: encoding of components and tensors in layers from coarse to fine.

The layers use the Lagrange multipliers μ R^(L-1), ..., μ R, μ with R = `MULTIPLIER_RATIO`. At each layer, every
component is rounded with the step that belongs to the layer's multiplier. A component that has not been sent yet is
created if it reduces the loss by more than the multiplier times its bytes. A component that has been sent is refined by
its remaining error under the same condition.

The items that a large multiplier selects form approximately the stream that is optimal for this multiplier. A prefix is
therefore nearly as good as a stream of the same size. On random adapters, two layers reduce the loss of the first third
of the stream by a third. They make the complete stream 2 to 4 per cent larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airlora.codec.encoder.metric import ErrorMetric, squared_norms
from airlora.codec.encoder.precision import PrecisionSchedule, steps_for_bits, steps_for_multiplier
from airlora.codec.encoder.rounding import Rounding, quantise_rows
from airlora.codec.format.items import Item, Kind, ValueFormat, ValueGroup
from airlora.codec.format.quantiser import dequantise

__all__ = ["BaseValues", "PlannedItem", "encode_layers"]

_COPY_BYTES = 2.0
_FLOATS: dict[int, tuple[ValueFormat, type[np.float16] | type[np.float32]]] = {
    16: (ValueFormat.FLOAT16, np.float16),
    32: (ValueFormat.FLOAT32, np.float32),
}
_Rows = NDArray[np.float32]


@dataclass(slots=True)
class PlannedItem:
    """Item with its expected effect.

    Args:
        item: Item of the stream.
        loss_reduction: Expected decrease of the loss.
        num_bytes: Expected size in bytes.
        density: Loss reduction per byte that determines the position in the stream.
    """

    item: Item
    loss_reduction: float
    num_bytes: float
    density: float = 0.0


@dataclass(frozen=True, slots=True)
class BaseValues:
    """Values of the base stream from which the components of a target start.

    Args:
        groups: Values of each group of all components, [components, length] per group.
        indices: Index in the base stream of the component to copy, for each component.
    """

    groups: Sequence[_Rows]
    indices: Sequence[int]


def encode_layers(
    target: int,
    groups: Sequence[_Rows],
    energies: Sequence[NDArray[np.float64]],
    importance: NDArray[np.float64],
    schedule: PrecisionSchedule,
    *,
    rounding: Rounding,
    metrics: Sequence[ErrorMetric | None],
    num_groups: int = 1,
    overhead_bytes: float,
    base: BaseValues | None = None,
) -> list[list[PlannedItem]]:
    """Return the items of each component of a module, or of a tensor, in the order of the layers.

    Args:
        target: Position of the module or tensor in the layout.
        groups: Values of each group of all components, [components, length] per group.
        energies: Squared norm of each group to which its squared error is relative, [components] per group.
        importance: Importance w_k of each component, [components].
        schedule: Precision of every layer.
        rounding: Rounding method.
        metrics: Error metric of each group.
        num_groups: Number of groups per vector or tensor.
        overhead_bytes: Size of an item without its values in bytes.
        base: Values of the base stream. None encodes without a base stream.
    """
    count = len(importance)
    planned: list[list[PlannedItem]] = [[] for _ in range(count)]

    def relative_errors(residuals: Sequence[_Rows]) -> NDArray[np.float64]:
        total = np.zeros(count)
        for rows, energy, metric in zip(residuals, energies, metrics, strict=True):
            total += squared_norms(rows, metric) / np.where(energy > 0, energy, 1.0)
        return total

    if base is None:
        residuals = [np.array(rows) for rows in groups]
        is_started, errors = np.zeros(count, dtype=bool), np.ones(count)
    else:
        residuals = [rows - copied for rows, copied in zip(groups, base.groups, strict=True)]
        is_started, errors = np.ones(count, dtype=bool), relative_errors(residuals)
        for k, index in enumerate(base.indices):
            reduction = float(importance[k] * (1 - errors[k]))
            planned[k].append(PlannedItem(Item(Kind.COPY, target, index), reduction, _COPY_BYTES))
    multipliers = schedule.multipliers
    for layer, multiplier in enumerate(multipliers):
        is_last = layer == len(multipliers) - 1
        encoded = [
            _encode_group(*own, importance, multiplier, schedule.bits, rounding)
            for own in zip(residuals, energies, metrics, strict=True)
        ]
        remaining = [rows - own.values for rows, own in zip(residuals, encoded, strict=True)]
        after = relative_errors(remaining)
        num_bytes = np.sum([own.num_bytes for own in encoded], axis=0) + overhead_bytes
        reductions = importance * (errors - after)
        is_sent = (after < errors) if multiplier is None else reductions > multiplier * num_bytes
        is_sent |= is_last & ~is_started
        for k in np.flatnonzero(is_sent).tolist():
            kind, index = (Kind.REFINE, k) if is_started[k] else (Kind.NEW, 0)
            item = Item(kind, target, index, num_groups, tuple(own.groups[k] for own in encoded))
            planned[k].append(PlannedItem(item, float(reductions[k]), float(num_bytes[k])))
        for rows, new in zip(residuals, remaining, strict=True):
            rows[is_sent] = new[is_sent]
        errors = np.where(is_sent, after, errors)
        is_started |= is_sent
    return planned


@dataclass(frozen=True, slots=True)
class _EncodedGroup:
    """One group of all components after rounding."""

    groups: list[ValueGroup]
    num_bytes: NDArray[np.float64]
    values: _Rows


def _encode_group(
    rows: _Rows,
    energies: NDArray[np.float64],
    metric: ErrorMetric | None,
    importance: NDArray[np.float64],
    multiplier: float | None,
    bits: int,
    rounding: Rounding,
) -> _EncodedGroup:
    length = rows.shape[1]
    if multiplier is None and bits in _FLOATS:
        value_format, dtype = _FLOATS[bits]
        limits = np.finfo(dtype)
        values = np.clip(rows, float(limits.min), float(limits.max)).astype(dtype).astype(np.float32)
        groups = [ValueGroup(value_format, row) for row in values]
        return _EncodedGroup(groups, np.full(len(rows), length * bits / 8), values)
    norms = np.sqrt(energies)
    if multiplier is None:
        steps = steps_for_bits(norms, length, bits)
    else:
        steps = steps_for_multiplier(norms, importance, multiplier)
    quantised = quantise_rows(rows, steps, rounding=rounding, metric=metric)
    groups = [
        ValueGroup(ValueFormat.QUANTISED, symbols, int(step), int(table))
        for symbols, step, table in zip(quantised.symbols, steps, quantised.tables, strict=True)
    ]
    return _EncodedGroup(groups, quantised.bits / 8, dequantise(quantised.symbols, steps))
