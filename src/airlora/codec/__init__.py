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
    cut,
    decode_delta,
    decode_stream,
    describe,
    read_stream,
)

if TYPE_CHECKING:
    from airlora.codec.encoder import (
        Bits,
        EncodeOptions,
        ErrorMetric,
        HeadTensor,
        ModuleUpdate,
        PreviewedItem,
        Rounding,
        StreamPreview,
        encode_delta,
        encode_stream,
        preview_stream,
        verify_earlier,
    )

__all__ = [
    "Bits",
    "DecodedStream",
    "EncodeOptions",
    "ErrorMetric",
    "HeadTensor",
    "Limits",
    "ModuleUpdate",
    "PreviewedItem",
    "Rounding",
    "StreamHeader",
    "StreamPreview",
    "StreamReader",
    "cut",
    "decode_delta",
    "decode_stream",
    "describe",
    "encode_delta",
    "encode_stream",
    "preview_stream",
    "read_stream",
    "verify_earlier",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from airlora.codec import encoder

        return getattr(encoder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
