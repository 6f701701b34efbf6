"""What a stream would hold, before it is made: for whoever prepares its components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

import numpy as np

from airlora.codec.header import StreamHeader
from airlora.codec.items import Kind
from airlora.codec.sources import HeadTensor, ModuleUpdate
from airlora.codec.steps import step_size
from airlora.codec.stream import EncodeOptions, Encoding

__all__ = ["PreviewedItem", "StreamPreview", "preview_stream"]


@dataclass(frozen=True, slots=True)
class PreviewedItem:
    """A component that would be sent, or a layer that would refine it.

    Args:
        module: Name of its module.
        index: Its place in the module.
        steps: That its two vectors are rounded to once the item is there; 0 for floats.
        num_bytes: About what the item would take.
    """

    module: str
    index: int
    steps: tuple[float, float]
    num_bytes: float


@dataclass(frozen=True, slots=True)
class StreamPreview:
    """What a stream would hold.

    Args:
        items: Components and their refinements, in the order of sending.
        tensor_steps: Finest step of the head's tensors that would be sent, by name; 0 for floats.
        price: Loss per byte that the plan was made at; None with a fixed number of bits.
    """

    items: tuple[PreviewedItem, ...]
    tensor_steps: dict[str, float]
    price: float | None


def preview_stream(
    header: StreamHeader,
    updates: Mapping[str, ModuleUpdate],
    tensors: Mapping[str, HeadTensor] | None = None,
    **options: Unpack[EncodeOptions],
) -> StreamPreview:
    """Return what `encode_stream` would send for the same arguments; raises as it does."""
    encoding = Encoding(header, updates, tensors, **options)
    layout = encoding.layout
    items: list[PreviewedItem] = []
    tensor_steps: dict[str, float] = {}
    num_sent = dict.fromkeys(header.modules, 0)
    for unit in encoding.units():
        for item in unit.items:
            name = layout.names[item.target]
            steps = [step_size(part.step_index) if part.is_quantised else 0.0 for part in item.parts]
            if not layout.is_module(item.target):
                tensor_steps[name] = float(np.min(steps))
                continue
            index = item.index if item.kind == Kind.REFINE else num_sent[name]
            num_sent[name] += item.kind == Kind.NEW
            items.append(PreviewedItem(name, index, (steps[0], steps[item.groups]), unit.num_bytes / len(unit.items)))
    return StreamPreview(tuple(items), tensor_steps, encoding.ladder.price)
