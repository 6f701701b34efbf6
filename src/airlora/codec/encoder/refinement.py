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

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airlora.codec.encoder.metric import ErrorMetric, squared_norms
from airlora.codec.encoder.precision import PrecisionSchedule, steps_for_bits, steps_for_multiplier
from airlora.codec.encoder.rounding import VALUES_PER_BATCH, QuantisedRows, Rounding, RowGroup, quantise_groups
from airlora.codec.format.items import Item, Kind, ValueFormat, ValueGroup
from airlora.codec.format.quantiser import dequantise

__all__ = ["BaseValues", "LayeredTarget", "PlannedItem", "encode_layers"]

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


@dataclass(frozen=True, slots=True)
class LayeredTarget:
    """Values of all components of a module, or of a tensor, that are encoded in layers.

    Args:
        target: Position of the module or tensor in the layout.
        groups: Values of each group of all components, [components, length] per group.
        energies: Squared norm of each group to which its squared error is relative, [components] per group.
        importance: Importance w_k of each component, [components].
        metrics: Error metric of each group.
        overhead_bytes: Size of an item without its values in bytes.
        num_groups: Number of groups per vector or tensor.
        base: Values of the base stream. None encodes without a base stream.
    """

    target: int
    groups: Sequence[_Rows]
    energies: Sequence[NDArray[np.float64]]
    importance: NDArray[np.float64]
    metrics: Sequence[ErrorMetric | None]
    overhead_bytes: float
    num_groups: int = 1
    base: BaseValues | None = None


def encode_layers(
    targets: Sequence[LayeredTarget], schedule: PrecisionSchedule, *, rounding: Rounding
) -> list[list[list[PlannedItem]]]:
    """Return the items of each component of each target, in the order of the layers.

    Args:
        targets: Modules and tensors, each with its values.
        schedule: Precision of every layer.
        rounding: Rounding method.
    """
    planned: list[list[list[PlannedItem]]] = []
    start = num_values = 0
    for end, own in enumerate(targets, 1):
        num_values += sum(rows.size for rows in own.groups)
        if num_values >= VALUES_PER_BATCH or end == len(targets):
            planned += _encode_batch(targets[start:end], schedule, rounding)
            start, num_values = end, 0
    return planned


def _encode_batch(
    targets: Sequence[LayeredTarget], schedule: PrecisionSchedule, rounding: Rounding
) -> list[list[list[PlannedItem]]]:
    """Return what `encode_layers` returns, for targets that are rounded together."""
    encoders = [_TargetEncoder(own) for own in targets]
    multipliers = schedule.multipliers
    for layer, multiplier in enumerate(multipliers):
        encoded = _encode_groups(encoders, multiplier, schedule.bits, rounding)
        for encoder, own in zip(encoders, encoded, strict=True):
            encoder.add_layer(own, multiplier, is_last=layer == len(multipliers) - 1)
    return [encoder.planned for encoder in encoders]


class _TargetEncoder:
    """Encoder of one target, layer by layer.

    Attributes:
        source: Values to encode.
        residuals: Values minus those that have been sent, [components, length] per group.
        planned: Items of each component.
    """

    def __init__(self, source: LayeredTarget) -> None:
        count, base = len(source.importance), source.base
        self.source = source
        self.planned: list[list[PlannedItem]] = [[] for _ in range(count)]
        self._is_started = np.full(count, base is not None)
        if base is None:
            self.residuals = [np.array(rows) for rows in source.groups]
            self._errors = np.ones(count)
            return
        self.residuals = [rows - copied for rows, copied in zip(source.groups, base.groups, strict=True)]
        self._errors = self._relative_errors(self.residuals)
        reductions = source.importance * (1 - self._errors)
        for k, index in enumerate(base.indices):
            self.planned[k].append(
                PlannedItem(Item(Kind.COPY, source.target, index), float(reductions[k]), _COPY_BYTES)
            )

    def add_layer(self, encoded: Sequence[_EncodedGroup], multiplier: float | None, *, is_last: bool) -> None:
        """Plan the items of a layer.

        Args:
            encoded: Residuals of each group after rounding.
            multiplier: Lagrange multiplier of the layer. None sends everything that reduces the error.
            is_last: Whether no layer follows. All components are then sent.
        """
        own = self.source
        remaining = [rows - group.values for rows, group in zip(self.residuals, encoded, strict=True)]
        after = self._relative_errors(remaining)
        num_bytes = np.sum([group.num_bytes for group in encoded], axis=0) + own.overhead_bytes
        reductions = own.importance * (self._errors - after)
        is_sent = (after < self._errors) if multiplier is None else reductions > multiplier * num_bytes
        is_sent |= is_last & ~self._is_started
        for k in np.flatnonzero(is_sent).tolist():
            kind, index = (Kind.REFINE, k) if self._is_started[k] else (Kind.NEW, 0)
            item = Item(kind, own.target, index, own.num_groups, tuple(group.groups[k] for group in encoded))
            self.planned[k].append(PlannedItem(item, float(reductions[k]), float(num_bytes[k])))
        for rows, new in zip(self.residuals, remaining, strict=True):
            rows[is_sent] = new[is_sent]
        self._errors = np.where(is_sent, after, self._errors)
        self._is_started |= is_sent

    def _relative_errors(self, residuals: Sequence[_Rows]) -> NDArray[np.float64]:
        total = np.zeros(len(self.source.importance))
        for rows, energy, metric in zip(residuals, self.source.energies, self.source.metrics, strict=True):
            total += squared_norms(rows, metric) / np.where(energy > 0, energy, 1.0)
        return total


@dataclass(frozen=True, slots=True)
class _EncodedGroup:
    """One group of all components after rounding."""

    groups: list[ValueGroup]
    num_bytes: NDArray[np.float64]
    values: _Rows


def _encode_groups(
    encoders: Sequence[_TargetEncoder], multiplier: float | None, bits: int, rounding: Rounding
) -> list[list[_EncodedGroup]]:
    """Return the residuals of each group of each target after rounding."""
    if multiplier is None and bits in _FLOATS:
        return [[_as_floats(rows, bits) for rows in own.residuals] for own in encoders]
    groups = []
    for own in encoders:
        for rows, energies, metric in zip(own.residuals, own.source.energies, own.source.metrics, strict=True):
            norms = np.sqrt(energies)
            if multiplier is None:
                steps = steps_for_bits(norms, rows.shape[1], bits)
            else:
                steps = steps_for_multiplier(norms, own.source.importance, multiplier)
            groups.append(RowGroup(rows, steps, metric))
    encoded = map(_as_symbols, groups, quantise_groups(groups, rounding=rounding))
    return [list(itertools.islice(encoded, len(own.residuals))) for own in encoders]


def _as_floats(rows: _Rows, bits: int) -> _EncodedGroup:
    value_format, dtype = _FLOATS[bits]
    limits = np.finfo(dtype)
    values = np.clip(rows, float(limits.min), float(limits.max)).astype(dtype).astype(np.float32)
    groups = [ValueGroup(value_format, row) for row in values]
    return _EncodedGroup(groups, np.full(len(rows), rows.shape[1] * bits / 8), values)


def _as_symbols(group: RowGroup, quantised: QuantisedRows) -> _EncodedGroup:
    groups = [
        ValueGroup(ValueFormat.QUANTISED, symbols, int(step), int(table))
        for symbols, step, table in zip(quantised.symbols, group.step_indices, quantised.tables, strict=True)
    ]
    return _EncodedGroup(groups, quantised.bits / 8, dequantise(quantised.symbols, group.step_indices))
