"""What a stream would hold, before it is made: for whoever prepares its components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from airlora.codec.encoder.sources import HeadTensor, ModuleUpdate
from airlora.codec.encoder.stream import EncodeOptions, Encoding
from airlora.codec.format.header import StreamHeader
from airlora.codec.format.items import Kind

__all__ = ["PreviewedItem", "StreamPreview", "preview_stream"]

_Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PreviewedItem:
    """A component that would be sent, or a layer that would refine it.

    Args:
        module: Name of its module.
        index: Its place in the module.
        u: What it is decoded to once the item is there, up to a factor that v makes up for: scaled as its source,
            [d_out].
        v: Likewise, [d_in].
        num_bytes: About what the item would take.
    """

    module: str
    index: int
    u: _Array
    v: _Array
    num_bytes: float


@dataclass(frozen=True, slots=True)
class StreamPreview:
    """What a stream would hold.

    Args:
        items: Components and their refinements, in the order of sending.
        tensors: The head's tensors that would be sent, as they are decoded from the whole stream.
        price: Loss per byte that the plan was made at; None with a fixed number of bits.
    """

    items: tuple[PreviewedItem, ...]
    tensors: dict[str, _Array]
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
    scales = {name: update.balance().astype(np.float32) for name, update in updates.items()}
    items: list[PreviewedItem] = []
    # What each component, or tensor, is decoded to so far.
    sent: dict[str, list[_Array]] = {name: [] for name in layout.names}
    for unit in encoding.units():
        for item in unit.items:
            name, own = layout.names[item.target], sent[layout.names[item.target]]
            if item.kind == Kind.NEW:
                own.append(item.values())
                index = len(own) - 1
            else:
                index = item.index
                own[index] = own[index] + item.values()
            if layout.is_module(item.target):
                u, v = np.split(own[index], [header.modules[name].d_out])
                c = scales[name][index]
                items.append(PreviewedItem(name, index, u / c, v * c, unit.num_bytes / len(unit.items)))
    heads = {name: sent[name][0].reshape(shape) for name, shape in header.tensors.items() if sent[name]}
    return StreamPreview(tuple(items), heads, encoding.ladder.price)
