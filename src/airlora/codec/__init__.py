"""Codec for adapters: one stream of bytes, most important bytes first, of which every prefix decodes.

`encode_stream` turns rank-one components and dense tensors into a stream. It chooses the precision and the order of
the components, rounds them, entropy-codes them and packs them into segments. `decode_stream` turns any prefix of whole
segments into an adapter that is bit-identical on every machine. `StreamReader` does the same segment by segment.
`encode_delta` encodes the difference to a stream that the device already holds.

`airlora.codec.format` defines the bytes and holds the decoder; a device needs nothing else. The names of
`airlora.codec.encoder` are loaded when they are first used.
"""

from typing import TYPE_CHECKING, Any

from airlora.codec.format import (
    DecodedStream,
    Limits,
    StreamHeader,
    StreamReader,
    decode_stream,
    describe,
    truncate,
)

if TYPE_CHECKING:
    from airlora.codec.encoder import (
        BitWidth,
        DenseTensor,
        EncodeOptions,
        ErrorMetric,
        ModuleUpdate,
        PreviewedItem,
        Rounding,
        StreamPreview,
        encode_delta,
        encode_stream,
        preview_stream,
        verify_base_stream,
    )

__all__ = [
    "BitWidth",
    "DecodedStream",
    "DenseTensor",
    "EncodeOptions",
    "ErrorMetric",
    "Limits",
    "ModuleUpdate",
    "PreviewedItem",
    "Rounding",
    "StreamHeader",
    "StreamPreview",
    "StreamReader",
    "decode_stream",
    "describe",
    "encode_delta",
    "encode_stream",
    "preview_stream",
    "truncate",
    "verify_base_stream",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from airlora.codec import encoder

        return getattr(encoder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
