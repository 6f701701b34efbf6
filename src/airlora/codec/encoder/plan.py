"""Sources to items in the order in which they are sent, and these to a stream."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from airlora.codec.encoder.metric import ErrorMetric, squared_norms
from airlora.codec.encoder.precision import Ladder, respect_order
from airlora.codec.encoder.refinement import Held, Route, Unit, climb
from airlora.codec.encoder.rounding import Rounding
from airlora.codec.encoder.sources import HeadTensor, ModuleUpdate
from airlora.codec.format.container import pack_head
from airlora.codec.format.header import StreamHeader
from airlora.codec.format.items import Item, Kind, Layout, split_lengths
from airlora.codec.format.reader import DecodedStream
from airlora.codec.format.segments import pack_segment
from airlora.codec.format.tables import NUM_SHAPES

__all__ = ["encode_items", "pack_stream", "segment_target"]

_MAX_ROW_GROUPS = 64
_Array = NDArray[np.float32]


class _ClimbOptions(TypedDict):
    rounding: Rounding
    metrics: Sequence[ErrorMetric | None]
    overhead_bytes: float


_MIN_SEGMENT_BYTES = 512
_MAX_SEGMENT_BYTES = 1 << 20
_GROWTH = 8


def encode_items(
    layout: Layout,
    updates: Mapping[str, ModuleUpdate],
    tensors: Mapping[str, HeadTensor],
    ladder: Ladder,
    *,
    rounding: Rounding,
    base: DecodedStream | None = None,
) -> list[Unit]:
    """Return what is sent, best first.

    Args:
        layout: Of the stream.
        updates: The components of each module.
        tensors: The head.
        ladder: How fine.
        rounding: How numbers are rounded.
        base: The adapter that the device holds; None makes a full stream.
    """
    units: list[Unit] = []
    for target, name in enumerate(layout.names):
        if name in updates:
            earlier = None if base is None else base.modules.get(name)
            units += _in_order(_module_routes(layout, target, updates[name], ladder, rounding, earlier), ladder)
        elif name in tensors:
            held = None if base is None else base.tensors.get(name)
            units += _in_order([_tensor_route(layout, target, tensors[name], ladder, rounding, held)], ladder)
    # The head first, without which components are nothing; stable: what must come first in a module does.
    units.sort(key=lambda unit: (not _starts_tensor(unit, layout), -unit.density))
    return units


def pack_stream(header: StreamHeader, layout: Layout, units: Sequence[Unit]) -> bytes:
    """Return the stream of these units, whole ones in segments of growing size."""
    segments: list[bytes] = []
    waiting: list[Item] = []
    before = expected = 0.0
    for unit in units:
        if waiting and expected + unit.num_bytes / 2 > segment_target(before):
            segments.append(pack_segment(waiting, layout))
            before, expected, waiting = before + len(segments[-1]), 0.0, []
        waiting += unit.items
        expected += unit.num_bytes
    if waiting:
        segments.append(pack_segment(waiting, layout))
    return pack_head(header, segments) + b"".join(segments)


def segment_target(bytes_before: float) -> int:
    """Return how many bytes the next segment should have: 512 first, then an eighth of all before, 1 MiB at most.

    >>> segment_target(0), segment_target(80_000)
    (512, 10000)
    """
    return min(max(int(bytes_before / _GROWTH), _MIN_SEGMENT_BYTES), _MAX_SEGMENT_BYTES)


def _module_routes(
    layout: Layout,
    target: int,
    update: ModuleUpdate,
    ladder: Ladder,
    rounding: Rounding,
    earlier: tuple[_Array, _Array] | None,
) -> list[Route]:
    vectors = update.balanced()
    weights = np.asarray(update.weights, dtype=np.float64)
    # A fixed number of bits a number fixes the step, whatever an error does.
    metrics = (None, None) if ladder.price is None else update.metric_pair
    energies = [squared_norms(rows, metric) for rows, metric in zip(vectors, metrics, strict=True)]
    options: _ClimbOptions = {
        "rounding": rounding,
        "metrics": metrics,
        "overhead_bytes": item_header_bits(layout, 2) / 8,
    }
    routes = climb(target, vectors, energies, weights, ladder, **options)
    match = None if earlier is None else match_components(*vectors, earlier)
    if match is not None:
        held = Held((match.held_u, match.held_v), match.indices.tolist())
        signed = [match.signs[:, None] * rows for rows in vectors]
        nearer = climb(target, signed, energies, weights, ladder, held=held, **options)
        routes = [_cheapest(pair, ladder) for pair in zip(routes, nearer, strict=True)]
    return routes


@dataclass(frozen=True, slots=True)
class Match:
    """The nearest earlier components.

    Args:
        indices: Of the earlier component for each new one, shape [r].
        signs: 1 or -1 for each new one: times u and v it is nearer to the earlier one, shape [r].
        held_u: The earlier u, as rows, shape [r, d_out].
        held_v: The earlier v, shape [r, d_in].
    """

    indices: NDArray[np.int64]
    signs: _Array
    held_u: _Array
    held_v: _Array


def match_components(u: _Array, v: _Array, earlier: tuple[_Array, _Array]) -> Match | None:
    """Return the earlier component nearest to each new one, or None if there are none.

    The pair (-u, -v) is the same component as (u, v); the sign nearer to the earlier one is taken.

    Args:
        u: Rows of the new adapter, shape [r, d_out], balanced.
        v: Shape [r, d_in].
        earlier: U [d_out, s] and V [s, d_in] that the device holds.
    """
    U, V = earlier
    if V.shape[0] == 0 or len(u) == 0:
        return None
    along_u, along_v = u @ U, v @ V.T
    signs = np.where(along_u + along_v < 0, -1, 1).astype(np.float32)
    # |u - s U|^2 + |v - s V|^2 without forming it
    energies = np.einsum("dk,dk->k", U, U) + np.einsum("kd,kd->k", V, V)
    gaps = energies[None] - 2 * np.abs(along_u + along_v)
    indices = np.argmin(gaps, axis=1).astype(np.int64)
    return Match(indices, signs[np.arange(len(u)), indices], U.T[indices], V[indices])


def _tensor_route(
    layout: Layout, target: int, tensor: HeadTensor, ladder: Ladder, rounding: Rounding, held: _Array | None
) -> Route:
    values = np.asarray(tensor.values, dtype=np.float32)
    weights = np.array([tensor.weight], dtype=np.float64)
    energy = squared_norms(values.reshape(1, -1), None)
    routes: list[Route] = []
    # One step for all numbers, as each counts alike; a table per row where rows differ in size.
    for groups in sorted({1, len(values) if values.ndim > 1 and len(values) <= _MAX_ROW_GROUPS else 1}):
        overhead = item_header_bits(layout, groups) / 8
        cuts = np.cumsum(split_lengths(values.size, groups))[:-1]
        pieces = [piece[None] for piece in np.split(values.ravel(), cuts)]
        # A step for a precision in bits follows from the size of the numbers, so pieces share that of the whole.
        energies = [energy * (piece.size / values.size if ladder.price is None else 1.0) for piece in pieces]
        starts: list[Held | None] = [None]
        if held is not None and held.shape == values.shape:
            starts.append(Held([piece[None] for piece in np.split(held.ravel(), cuts)], [0]))
        for start in starts:
            routes += climb(
                target,
                pieces,
                energies,
                weights,
                ladder,
                rounding=rounding,
                metrics=[None] * groups,
                groups=groups,
                overhead_bytes=overhead,
                held=start,
            )
    return _cheapest(routes, ladder)


def item_header_bits(layout: Layout, parts: int) -> float:
    """Return about how many bits an item costs beside its numbers."""
    return 3.0 + math.log2(max(len(layout.names), 1)) + parts * (math.log2(NUM_SHAPES + 2) + 6.5)


def _cheapest(routes: Sequence[Route], ladder: Ladder) -> Route:
    return min(routes, key=lambda route: route.cost(ladder))


def _starts_tensor(unit: Unit, layout: Layout) -> bool:
    """Whether a tensor of the head comes with the unit; what refines it may wait."""
    first = unit.items[0]
    return first.kind != Kind.REFINE and not layout.is_module(first.target)


def _in_order(routes: Sequence[Route], ladder: Ladder) -> list[Unit]:
    """Return the units that are worth their bytes, with densities that keep what must come first before the rest."""
    first = [route.units[0] for route in routes]
    densities = respect_order(
        np.array([max(unit.gain, 0.0) for unit in first]), np.array([unit.num_bytes for unit in first])
    )
    kept: list[Unit] = []
    for route, density in zip(routes, densities, strict=True):
        if ladder.price is not None and density <= ladder.price:
            break
        route.units[0].density = limit = float(density)
        for unit in route.units[1:]:
            unit.density = limit = min(limit, unit.gain / unit.num_bytes)
        kept += route.units
    return kept
