"""An adapter as one stream of bytes, best bytes first, valid wherever the link cuts it.

`encode_stream` takes rank-one components and the tensors of the head, plans how fine each is worth being sent and in
which order, rounds, codes and packs them into segments.  `decode_stream` turns any prefix of whole segments back into
an adapter, bit for bit the same on every machine; `StreamReader` does so segment by segment.  `encode_delta` leads from
the stream that a device holds to a newer one.  The format is described in `container` and `segments`.
"""

from airlora.codec.encoder.metric import ErrorMetric
from airlora.codec.encoder.precision import Bits
from airlora.codec.encoder.preview import PreviewedItem, StreamPreview, preview_stream
from airlora.codec.encoder.rounding import Rounding
from airlora.codec.encoder.sources import HeadTensor, ModuleUpdate
from airlora.codec.encoder.stream import EncodeOptions, encode_delta, encode_stream, verify_earlier
from airlora.codec.format.container import FORMAT_VERSION, StreamHead
from airlora.codec.format.decode import cut, decode_delta, decode_stream, describe, read_stream
from airlora.codec.format.header import StreamHeader
from airlora.codec.format.limits import Limits
from airlora.codec.format.reader import DecodedStream, StreamReader

__all__ = [
    "FORMAT_VERSION",
    "Bits",
    "DecodedStream",
    "EncodeOptions",
    "ErrorMetric",
    "HeadTensor",
    "Limits",
    "ModuleUpdate",
    "PreviewedItem",
    "Rounding",
    "StreamHead",
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
