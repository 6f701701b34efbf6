"""Preview of the decoded content of a stream, for quantisation-aware fine-tuning (QAT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from airlora.codec.encoder.sources import DenseTensor, ModuleUpdate
from airlora.codec.encoder.stream import EncodeOptions, StreamEncoder
from airlora.codec.format.header import StreamHeader
from airlora.codec.format.items import Kind

__all__ = ["PreviewedItem", "StreamPreview", "preview_stream"]

_Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PreviewedItem:
    """Component after an item of the stream has created or refined it.

    Args:
        module: Name of the module.
        index: Position of the component in the module.
        u: Left singular vector after decoding, float [d_out]. It is scaled like the source.
        v: Right singular vector after decoding, float [d_in]. It is scaled like the source.
        num_bytes: Expected size of the item in bytes.
    """

    module: str
    index: int
    u: _Array
    v: _Array
    num_bytes: float


@dataclass(frozen=True, slots=True)
class StreamPreview:
    """Decoded content of a stream.

    Args:
        items: Created and refined components, in stream order.
        tensors: Dense tensors and chunks of coefficients after decoding the complete stream. Those that are not sent
            are missing.
        lagrange_multiplier: Lagrange multiplier of the stream, loss per byte. None for a fixed bit width.
    """

    items: tuple[PreviewedItem, ...]
    tensors: dict[str, _Array]
    lagrange_multiplier: float | None


def preview_stream(
    header: StreamHeader,
    updates: Mapping[str, ModuleUpdate],
    tensors: Mapping[str, DenseTensor] | None = None,
    **options: Unpack[EncodeOptions],
) -> StreamPreview:
    """Return the decoded content of the stream that `encode_stream` returns for the same arguments.

    Raises:
        CodecError: `encode_stream` refuses an argument.
    """
    encoder = StreamEncoder(header, updates, tensors, **options)
    layout = encoder.layout
    scales = {name: update.balance().astype(np.float32) for name, update in updates.items()}
    items: list[PreviewedItem] = []
    decoded: dict[str, list[_Array]] = {name: [] for name in layout.names}
    for planned in encoder.plan():
        item, name = planned.item, layout.names[planned.item.target]
        own, index = decoded[name], item.index
        if item.kind == Kind.NEW:
            index = len(own)
            own.append(item.values())
        else:
            own[index] = own[index] + item.values()
        if layout.is_module(item.target):
            u, v = np.split(own[index], [header.modules[name].d_out])
            c = scales[name][index]
            items.append(PreviewedItem(name, index, u / c, v * c, planned.num_bytes))
    dense = {name: header.whole_tensor(name, decoded[name][0]) for name in header.tensors if decoded[name]}
    dense |= {name: decoded[name][0] for name in layout.names[len(layout.names) - layout.num_chunks :] if decoded[name]}
    return StreamPreview(tuple(items), dense, encoder.schedule.multiplier)
