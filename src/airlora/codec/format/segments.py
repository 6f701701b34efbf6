"""Whole items to one self-contained segment and back.

A segment is one block of `entropy`.  What the items are comes first, field by field (every
kind, then every target, ...), because like things beside each other cost least; the numbers follow, part by part.

| field | per | coded as |
|---|---|---|
| number of items | segment | plain |
| kind | item | `_KIND_TABLE` |
| target | item | uniform over modules and tensors |
| index | item that refines or copies a component | uniform over r_max |
| groups - 1 | item that is no copy | `_GROUP_TABLE` |
| coding and shape of the table | part | uniform over 6 |
| width of the table, less that of the part before | quantised part | `_DELTA_TABLE` |
| step, less that of the part before | quantised part | `_DELTA_TABLE` |
| the numbers | part | their table, or raw little-endian floats |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.codec.format.entropy import BlockReader, BlockWriter
from airlora.codec.format.items import Coding, Item, Kind, Layout, Part
from airlora.codec.format.quantiser import MAX_STEP_INDEX, MIN_STEP_INDEX
from airlora.codec.format.tables import NUM_SHAPES, NUM_WIDTHS
from airlora.errors import CodecError

__all__ = ["pack_segment", "unpack_segment"]

_KIND_TABLE = 2 * NUM_WIDTHS + 8  # shape 2 (Laplace), σ = 1/4: nearly always NEW
_GROUP_TABLE = 2 * NUM_WIDTHS + 8
_DELTA_TABLE = 2 * NUM_WIDTHS + 44  # σ = 5.7
_FIRST_WIDTH = 32
_FIRST_STEP = -64
_NUM_CODINGS = NUM_SHAPES + 2
_FLOAT_TYPES: dict[Coding, np.dtype[Any]] = {Coding.FLOAT16: np.dtype("<f2"), Coding.FLOAT32: np.dtype("<f4")}
# What a segment may claim per byte, so that few bytes cannot make much work: far above what numbers cost.
_PARTS_PER_BYTE = 16
_NUMBERS_PER_BYTE = 1 << 12
_LAYERS = 16  # items per component or tensor at most


def pack_segment(items: Sequence[Item], layout: Layout) -> bytes:
    """Return the segment that holds `items`."""
    block = BlockWriter()
    block.put_number(len(items))
    block.put(_column(item.kind for item in items), _KIND_TABLE)
    block.put_uniform(_column(item.target for item in items), len(layout.names))
    indexed = [item.index for item in items if item.kind != Kind.NEW and layout.is_module(item.target)]
    block.put_uniform(_column(indexed), layout.r_max)
    block.put(_column(item.groups - 1 for item in items if item.kind != Kind.COPY), _GROUP_TABLE)
    parts = [part for item in items for part in item.parts]
    block.put_uniform(_column(map(_coding_code, parts)), _NUM_CODINGS)
    quantised = [part for part in parts if part.is_quantised]
    block.put(_differences([part.table % NUM_WIDTHS for part in quantised], _FIRST_WIDTH), _DELTA_TABLE)
    block.put(_differences([part.step_index for part in quantised], _FIRST_STEP), _DELTA_TABLE)
    for part in parts:
        if part.is_quantised:
            block.put(part.data, part.table)
        else:
            block.put_raw(part.data.astype(_FLOAT_TYPES[part.coding]).tobytes())
    return block.finish()


def unpack_segment(data: bytes | memoryview, layout: Layout, *, max_numbers: int, what: str) -> list[Item]:
    """Return the items of a segment.

    Args:
        data: The segment.
        layout: Of the stream's header.
        max_numbers: Numbers that it may hold; more is refused before any is decoded.
        what: Name of the segment in errors.

    Raises:
        CodecError: The segment is damaged or claims too much.
    """
    block = BlockReader(data, what)
    count = block.number("number of items", _LAYERS * (layout.num_modules * layout.r_max + len(layout.names)))
    bound = _PARTS_PER_BYTE * len(data)
    _claim("items", count, bound, what)
    kinds = _bounded(block.get(count, _KIND_TABLE), 0, len(Kind) - 1, f"{what}: kind of an item")
    targets = block.get_uniform(count, len(layout.names))
    modules = targets < layout.num_modules
    indices = np.zeros(count, dtype=np.int32)
    indexed = (kinds != Kind.NEW) & modules
    indices[indexed] = block.get_uniform(int(indexed.sum()), layout.r_max)
    groups = np.ones(count, dtype=np.int64)
    coded = kinds != Kind.COPY
    groups[coded] = block.get(int(coded.sum()), _GROUP_TABLE).astype(np.int64) + 1
    sizes = np.array([sum(vectors) for vectors in layout.vectors], dtype=np.int64)[targets]
    _claim("numbers", int(sizes.sum()), max_numbers, what)
    _claim("coded numbers", int(sizes[coded].sum()), _NUMBERS_PER_BYTE * len(data), what)
    _claim("parts", int(np.maximum(groups, 1).sum()), bound, what)
    lengths = [
        layout.part_lengths(int(target), int(number)) if is_coded else []
        for target, number, is_coded in zip(targets, groups, coded, strict=True)
    ]
    parts = iter(_unpack_parts(block, [length for item in lengths for length in item], what))
    items = [
        Item(Kind(kind), int(target), int(index), int(number), tuple(next(parts) for _ in item))
        for kind, target, index, number, item in zip(kinds, targets, indices, groups, lengths, strict=True)
    ]
    block.finish()
    return items


def _unpack_parts(block: BlockReader, lengths: list[int], what: str) -> list[Part]:
    codes = block.get_uniform(len(lengths), _NUM_CODINGS)
    quantised = codes < NUM_SHAPES
    num_quantised = int(quantised.sum())
    widths = _sums(block.get(num_quantised, _DELTA_TABLE), _FIRST_WIDTH)
    _bounded(widths, 0, NUM_WIDTHS - 1, f"{what}: width of a table")
    steps = _sums(block.get(num_quantised, _DELTA_TABLE), _FIRST_STEP)
    _bounded(steps, MIN_STEP_INDEX, MAX_STEP_INDEX, f"{what}: step")
    parts: list[Part] = []
    place = 0
    for code, length in zip(codes, lengths, strict=True):
        if code < NUM_SHAPES:
            table = int(code) * NUM_WIDTHS + int(widths[place])
            parts.append(Part(Coding.UNIFORM, block.get(length, table), int(steps[place]), table))
            place += 1
            continue
        coding = Coding(int(code) - NUM_SHAPES + Coding.FLOAT16)
        kind = _FLOAT_TYPES[coding]
        values = np.frombuffer(block.get_raw(length * kind.itemsize), dtype=kind).astype(np.float32)
        if not np.isfinite(values).all():
            raise CodecError(f"{what}: holds values that are not finite")
        parts.append(Part(coding, values))
    return parts


def _coding_code(part: Part) -> int:
    if part.is_quantised:
        return part.table // NUM_WIDTHS
    return NUM_SHAPES + part.coding - Coding.FLOAT16


def _column(values: Iterable[int]) -> NDArray[np.int32]:
    return np.fromiter(values, dtype=np.int32)


def _differences(values: list[int], first: int) -> NDArray[np.int32]:
    column = np.array([first, *values], dtype=np.int32)
    return column[1:] - column[:-1]


def _sums(differences: NDArray[np.int32], first: int) -> NDArray[np.int64]:
    return np.cumsum(differences, dtype=np.int64) + first


def _claim(name: str, value: int, limit: int, what: str) -> None:
    if value > limit:
        raise CodecError.of(f"{what}: number of {name} claimed", value, f"at most {limit}")


def _bounded(values: NDArray[Any], low: int, high: int, what: str) -> NDArray[Any]:
    if len(values) and (values.min() < low or values.max() > high):
        worst = int(values.min()) if values.min() < low else int(values.max())
        raise CodecError.of(what, worst, f"{low} to {high}")
    return values
