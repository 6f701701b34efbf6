"""Serialisation of items into self-contained segments.

A segment is one block of `entropy`. It stores the fields of all items column by column: all kinds, then all targets,
and so on. Similar integers next to each other cost fewer bits. The values follow, group by group.

| field | stored for | encoded as |
|---|---|---|
| number of items | the segment | varint |
| kind | every item | `_KIND_TABLE` |
| target | every item | uniform over modules and tensors |
| index | every item that refines or copies a component | uniform over r_max |
| number of groups - 1 | every item that is not a copy | `_GROUP_TABLE` |
| value format, and shape of the entropy table | every group | uniform over 6 |
| width of the entropy table, minus that of the previous group | every quantised group | `_DELTA_TABLE` |
| step index, minus that of the previous group | every quantised group | `_DELTA_TABLE` |
| values | every group | the group's table, or raw little-endian floats |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.codec.format.entropy import BlockReader, BlockWriter
from airlora.codec.format.items import Item, Kind, Layout, ValueFormat, ValueGroup
from airlora.codec.format.quantiser import MAX_STEP_INDEX, MIN_STEP_INDEX
from airlora.codec.format.tables import NUM_SHAPES, NUM_WIDTHS
from airlora.codec.format.varint import encode_varint
from airlora.errors import CodecError

__all__ = ["NUM_GROUP_CODES", "pack_segment", "unpack_segment"]

NUM_GROUP_CODES = NUM_SHAPES + 2
"""Number of combinations of value format and table shape: one per shape, float16 and float32."""

_KIND_TABLE = 2 * NUM_WIDTHS + 8  # shape 2 (Laplace), σ = 1/4: nearly all items are NEW
_GROUP_TABLE = 2 * NUM_WIDTHS + 8
_DELTA_TABLE = 2 * NUM_WIDTHS + 44  # σ = 5.7
_FIRST_WIDTH = 32
_FIRST_STEP = -64
_FLOAT_TYPES: dict[ValueFormat, np.dtype[Any]] = {
    ValueFormat.FLOAT16: np.dtype("<f2"),
    ValueFormat.FLOAT32: np.dtype("<f4"),
}
# Upper bounds on what a segment may declare, far above what an encoder produces. They bound the work per byte.
_GROUPS_PER_BYTE = 16
_VALUES_PER_BYTE = 1 << 12
_ITEMS_PER_COMPONENT = 16


def pack_segment(items: Sequence[Item], layout: Layout) -> bytes:
    """Return the segment that holds `items`."""
    block = BlockWriter()
    block.tail += encode_varint(len(items))
    block.put(_column(item.kind for item in items), _KIND_TABLE)
    block.put_uniform(_column(item.target for item in items), len(layout.names))
    indexed = [item.index for item in items if item.kind != Kind.NEW and layout.is_module(item.target)]
    block.put_uniform(_column(indexed), layout.r_max)
    block.put(_column(item.num_groups - 1 for item in items if item.kind != Kind.COPY), _GROUP_TABLE)
    groups = [group for item in items for group in item.groups]
    block.put_uniform(_column(map(_group_code, groups)), NUM_GROUP_CODES)
    quantised = [group for group in groups if group.is_quantised]
    block.put(_differences([group.table % NUM_WIDTHS for group in quantised], _FIRST_WIDTH), _DELTA_TABLE)
    block.put(_differences([group.step_index for group in quantised], _FIRST_STEP), _DELTA_TABLE)
    for group in groups:
        if group.is_quantised:
            block.put(group.data, group.table)
        else:
            block.tail += group.data.astype(_FLOAT_TYPES[group.format]).tobytes()
    return block.finish()


def unpack_segment(data: bytes | memoryview, layout: Layout, *, max_values: int, name: str) -> list[Item]:
    """Return the items of a segment.

    Args:
        data: Bytes of the segment.
        layout: Targets of the stream's items.
        max_values: Largest number of values that the segment may hold. A larger number is refused before any value
            is decoded.
        name: Name of the segment in error messages.

    Raises:
        CodecError: The segment is damaged or declares too many items, groups or values.
    """
    block = BlockReader(data, name)
    max_items = _ITEMS_PER_COMPONENT * (layout.num_modules * layout.r_max + len(layout.names))
    count = block.tail.read_varint("number of items", max_items)
    max_groups = _GROUPS_PER_BYTE * len(data)
    _verify_count("items", count, max_groups, name)
    kinds = _verify_range(block.take(count, _KIND_TABLE), 0, len(Kind) - 1, f"{name}: kind of an item")
    targets = block.take_uniform(count, len(layout.names))
    indices = np.zeros(count, dtype=np.int32)
    is_indexed = (kinds != Kind.NEW) & (targets < layout.num_modules)
    indices[is_indexed] = block.take_uniform(int(is_indexed.sum()), layout.r_max)
    num_groups = np.ones(count, dtype=np.int64)
    has_values = kinds != Kind.COPY
    num_groups[has_values] = block.take(int(has_values.sum()), _GROUP_TABLE).astype(np.int64) + 1
    sizes = np.array([sum(vectors) for vectors in layout.vectors], dtype=np.int64)[targets]
    _verify_count("values", int(sizes.sum()), max_values, name)
    _verify_count("encoded values", int(sizes[has_values].sum()), _VALUES_PER_BYTE * len(data), name)
    _verify_count("groups", int(np.maximum(num_groups, 1).sum()), max_groups, name)
    lengths = [
        layout.group_lengths(int(target), int(number)) if item_has_values else []
        for target, number, item_has_values in zip(targets, num_groups, has_values, strict=True)
    ]
    groups = iter(_unpack_groups(block, [length for item in lengths for length in item], name))
    items = [
        Item(Kind(kind), int(target), int(index), int(number), tuple(next(groups) for _ in item))
        for kind, target, index, number, item in zip(kinds, targets, indices, num_groups, lengths, strict=True)
    ]
    block.finish()
    return items


def _unpack_groups(block: BlockReader, lengths: list[int], name: str) -> list[ValueGroup]:
    codes = block.take_uniform(len(lengths), NUM_GROUP_CODES)
    num_quantised = int((codes < NUM_SHAPES).sum())
    widths = np.cumsum(block.take(num_quantised, _DELTA_TABLE), dtype=np.int64) + _FIRST_WIDTH
    _verify_range(widths, 0, NUM_WIDTHS - 1, f"{name}: width of an entropy table")
    steps = np.cumsum(block.take(num_quantised, _DELTA_TABLE), dtype=np.int64) + _FIRST_STEP
    _verify_range(steps, MIN_STEP_INDEX, MAX_STEP_INDEX, f"{name}: step index")
    quantised = zip(widths.tolist(), steps.tolist(), strict=True)
    groups: list[ValueGroup] = []
    for code, length in zip(codes.tolist(), lengths, strict=True):
        if code < NUM_SHAPES:
            width, step = next(quantised)
            table = code * NUM_WIDTHS + width
            groups.append(ValueGroup(ValueFormat.QUANTISED, block.take(length, table), step, table))
            continue
        value_format = ValueFormat(code - NUM_SHAPES + ValueFormat.FLOAT16)
        dtype = _FLOAT_TYPES[value_format]
        values = np.frombuffer(block.tail.take(length * dtype.itemsize), dtype=dtype).astype(np.float32)
        if not np.isfinite(values).all():
            raise CodecError(f"{name}: contains values that are not finite")
        groups.append(ValueGroup(value_format, values))
    return groups


def _group_code(group: ValueGroup) -> int:
    if group.is_quantised:
        return group.table // NUM_WIDTHS
    return NUM_SHAPES + group.format - ValueFormat.FLOAT16


def _column(values: Iterable[int]) -> NDArray[np.int32]:
    return np.fromiter(values, dtype=np.int32)


def _differences(values: list[int], first: int) -> NDArray[np.int32]:
    column = np.array([first, *values], dtype=np.int32)
    return column[1:] - column[:-1]


def _verify_count(kind: str, value: int, limit: int, name: str) -> None:
    if value > limit:
        raise CodecError.of(f"{name}: number of declared {kind}", value, f"at most {limit}")


def _verify_range(values: NDArray[Any], low: int, high: int, field: str) -> NDArray[Any]:
    if len(values) and (values.min() < low or values.max() > high):
        worst = int(values.min()) if values.min() < low else int(values.max())
        raise CodecError.of(field, worst, f"{low} to {high}")
    return values
