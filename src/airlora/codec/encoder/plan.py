"""Selection and order of the items of a stream, and packing of the items into segments."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from airlora.codec.encoder.metric import squared_norms
from airlora.codec.encoder.precision import PrecisionSchedule, monotone_densities
from airlora.codec.encoder.refinement import BaseValues, LayeredTarget, PlannedItem, encode_layers
from airlora.codec.encoder.rounding import Rounding
from airlora.codec.encoder.sources import DenseTensor, ModuleUpdate
from airlora.codec.format.container import pack_index
from airlora.codec.format.header import StreamHeader
from airlora.codec.format.items import Item, Kind, Layout, split_lengths
from airlora.codec.format.reader import DecodedStream
from airlora.codec.format.segments import NUM_GROUP_CODES, pack_segment

__all__ = ["MIN_SEGMENT_BYTES", "pack_stream", "plan_items", "target_segment_bytes"]

_MAX_ROW_GROUPS = 64
MIN_SEGMENT_BYTES = 512
"""Default size of the first segments of a stream, bytes."""

_MAX_SEGMENT_BYTES = 1 << 20
_SEGMENT_GROWTH = 8
_Array = NDArray[np.float32]
_Planned = list[list[PlannedItem]]  # items of each component in the order of the layers
_Choice = Callable[[Sequence[_Planned], PrecisionSchedule], _Planned]


def plan_items(
    layout: Layout,
    updates: Mapping[str, ModuleUpdate],
    tensors: Mapping[str, DenseTensor],
    schedule: PrecisionSchedule,
    *,
    rounding: Rounding,
    base: DecodedStream | None = None,
) -> list[PlannedItem]:
    """Return the items to send, in stream order.

    Dense tensors come first, because components are useless without them. The other items, chunks of coefficients
    among them, follow by decreasing density, which is the loss reduction per byte. The order of the components of a
    module is kept.

    Args:
        layout: Targets of the stream's items.
        updates: Components of each module.
        tensors: Dense tensors.
        schedule: Precision of every layer.
        rounding: Rounding method.
        base: Base stream that the device holds. None plans a full stream.
    """
    sources: list[LayeredTarget] = []
    choices: list[tuple[_Choice, int]] = []
    for target, name in enumerate(layout.names):
        if name in updates:
            module = None if base is None else base.modules.get(name)
            choose: _Choice = _cheapest_components
            own = _module_sources(layout, target, updates[name], schedule, module)
        elif name in tensors:
            tensor = None if base is None else base.tensors.get(name)
            choose = _cheapest_tensor
            own = _tensor_sources(layout, target, tensors[name], schedule, tensor)
        else:
            continue
        sources += own
        choices.append((choose, len(own)))
    encoded = iter(encode_layers(sources, schedule, rounding=rounding))
    items: list[PlannedItem] = []
    chunk_density = math.inf
    for choose, count in choices:
        selected = _select(choose(list(itertools.islice(encoded, count)), schedule), schedule)
        # Chunks keep their order, since every prefix of them was trained.
        if selected and layout.is_chunk(selected[0].item.target):
            selected[0].density = chunk_density = min(chunk_density, selected[0].density)
        items += selected

    def creates_tensor(item: Item) -> bool:
        return item.kind != Kind.REFINE and layout.is_tensor(item.target)

    return sorted(items, key=lambda planned: (not creates_tensor(planned.item), -planned.density))


def pack_stream(
    header: StreamHeader,
    layout: Layout,
    items: Sequence[PlannedItem],
    *,
    min_segment_bytes: int = MIN_SEGMENT_BYTES,
) -> bytes:
    """Return the stream of these items.

    Args:
        header: Header fields.
        layout: Targets of the items.
        items: Items in stream order.
        min_segment_bytes: Size of the first segments in bytes, see `target_segment_bytes`.
    """
    segments: list[bytes] = []
    waiting: list[Item] = []
    packed_bytes = waiting_bytes = 0.0
    for planned in items:
        is_full = waiting_bytes + planned.num_bytes / 2 > target_segment_bytes(packed_bytes, min_segment_bytes)
        # A head alone is useless, so that a digest of its own would waste bytes.
        if is_full and not all(layout.is_tensor(own.target) for own in waiting):
            segments.append(pack_segment(waiting, layout))
            packed_bytes, waiting_bytes, waiting = packed_bytes + len(segments[-1]), 0.0, []
        waiting.append(planned.item)
        waiting_bytes += planned.num_bytes
    if waiting:
        segments.append(pack_segment(waiting, layout))
    return pack_index(header, segments) + b"".join(segments)


def target_segment_bytes(bytes_before: float, min_segment_bytes: int = MIN_SEGMENT_BYTES) -> int:
    """Return the size that the next segment should have in bytes.

    The first segments have 512 bytes by default, so that the first kilobyte is useful. Later segments have an eighth of
    all bytes before, at most 1 MiB, so that the digests take a few per cent of the stream.

    Args:
        bytes_before: Size of all previous segments in bytes.
        min_segment_bytes: Least size in bytes.

    Examples:
        >>> target_segment_bytes(0), target_segment_bytes(80_000)
        (512, 10000)
    """
    return min(max(int(bytes_before / _SEGMENT_GROWTH), min_segment_bytes), _MAX_SEGMENT_BYTES)


def _module_sources(
    layout: Layout,
    target: int,
    update: ModuleUpdate,
    schedule: PrecisionSchedule,
    base: tuple[_Array, _Array] | None,
) -> list[LayeredTarget]:
    """Return the components of a module, alone and relative to the base stream if that has any."""
    vectors = update.balanced()
    # A fixed bit width fixes the step, so error metrics have no effect.
    metrics = (None, None) if schedule.multiplier is None else update.metric_pair
    alone = LayeredTarget(
        target,
        vectors,
        energies=[squared_norms(rows, metric) for rows, metric in zip(vectors, metrics, strict=True)],
        importance=np.asarray(update.importance, dtype=np.float64),
        metrics=metrics,
        overhead_bytes=_item_overhead_bytes(layout, 2),
    )
    if base is None or not base[1].shape[0] or not len(vectors[1]):
        return [alone]
    signs, nearest = _match_components(*vectors, base)
    return [alone, replace(alone, groups=[signs[:, None] * rows for rows in vectors], base=nearest)]


def _cheapest_components(candidates: Sequence[_Planned], schedule: PrecisionSchedule) -> _Planned:
    """Return the cheapest of the candidates for each component of a module."""
    return [_cheapest(own, schedule) for own in zip(*candidates, strict=True)]


def _match_components(u: _Array, v: _Array, base: tuple[_Array, _Array]) -> tuple[_Array, BaseValues]:
    """Return the component of the base stream nearest to each new component, and the sign that brings it nearest.

    The pair (-u, -v) is the same component as (u, v).

    Args:
        u: Left factors of the new components, balanced, [r, d_out].
        v: Right factors of the new components, balanced, [r, d_in].
        base: U [d_out, s] and V [s, d_in] of the base stream, s >= 1.
    """
    U, V = base
    along = u @ U + v @ V.T
    # Squared distance |u - s U|^2 + |v - s V|^2 for the better sign s, without the terms of u and v.
    energies = np.einsum("dk,dk->k", U, U) + np.einsum("kd,kd->k", V, V)
    indices = np.argmin(energies[None] - 2 * np.abs(along), axis=1)
    signs = np.where(along[np.arange(len(u)), indices] < 0, -1, 1).astype(np.float32)
    return signs, BaseValues((U.T[indices], V[indices]), indices.tolist())


def _tensor_sources(
    layout: Layout,
    target: int,
    tensor: DenseTensor,
    schedule: PrecisionSchedule,
    base: _Array | None,
) -> list[LayeredTarget]:
    """Return a tensor in one or several groups, alone and relative to the base stream if that has it."""
    values = np.asarray(tensor.values, dtype=np.float32)
    energy = squared_norms(values.reshape(1, -1), None)
    sources: list[LayeredTarget] = []
    # All values share one step. An entropy table per row is an alternative for rows of different size.
    for num_groups in sorted({1, len(values) if values.ndim > 1 and len(values) <= _MAX_ROW_GROUPS else 1}):
        ends = np.cumsum(split_lengths(values.size, num_groups))[:-1]
        groups = [group[None] for group in np.split(values.ravel(), ends)]
        alone = LayeredTarget(
            target,
            groups,
            # A fixed bit width derives the step from the mean square of a group, which must be that of the tensor.
            [energy * (group.size / values.size if schedule.multiplier is None else 1.0) for group in groups],
            np.array([tensor.importance], dtype=np.float64),
            metrics=[None] * num_groups,
            overhead_bytes=_item_overhead_bytes(layout, num_groups),
            num_groups=num_groups,
        )
        sources.append(alone)
        if base is not None and base.shape == values.shape:
            held = BaseValues([group[None] for group in np.split(base.ravel(), ends)], [0])
            sources.append(replace(alone, base=held))
    return sources


def _cheapest_tensor(candidates: Sequence[_Planned], schedule: PrecisionSchedule) -> _Planned:
    """Return the cheapest of the candidates for a tensor."""
    return [_cheapest([items for candidate in candidates for items in candidate], schedule)]


def _item_overhead_bytes(layout: Layout, num_groups: int) -> float:
    return (3.0 + math.log2(max(len(layout.names), 1)) + num_groups * (math.log2(NUM_GROUP_CODES) + 6.5)) / 8


def _cheapest(candidates: Sequence[list[PlannedItem]], schedule: PrecisionSchedule) -> list[PlannedItem]:
    """Return the candidate with the lowest Lagrangian cost, or with the fewest bytes at a fixed bit width."""

    def cost(items: list[PlannedItem]) -> tuple[float, float]:
        reduction = sum(planned.loss_reduction for planned in items)
        num_bytes = sum(planned.num_bytes for planned in items)
        if schedule.multiplier is None:
            return num_bytes, -reduction
        return schedule.multiplier * num_bytes - reduction, num_bytes

    return min(candidates, key=cost)


def _select(candidates: Sequence[list[PlannedItem]], schedule: PrecisionSchedule) -> list[PlannedItem]:
    """Return the items that are worth their bytes, with densities that keep the order of the components and layers."""
    first = [items[0] for items in candidates]
    densities = monotone_densities(
        np.array([max(planned.loss_reduction, 0.0) for planned in first]),
        np.array([planned.num_bytes for planned in first]),
    )
    selected: list[PlannedItem] = []
    for items, density in zip(candidates, densities.tolist(), strict=True):
        if schedule.multiplier is not None and density <= schedule.multiplier:
            break
        items[0].density = limit = density
        for planned in items[1:]:
            planned.density = limit = min(limit, planned.loss_reduction / planned.num_bytes)
        selected += items
    return selected
