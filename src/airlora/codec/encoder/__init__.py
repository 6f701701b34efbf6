"""Encoder of streams: precision, rounding, choice of entropy tables, order of items, QAT preview and deltas."""

from airlora.codec.encoder.metric import ErrorMetric
from airlora.codec.encoder.precision import Bits
from airlora.codec.encoder.preview import PreviewedItem, StreamPreview, preview_stream
from airlora.codec.encoder.rounding import Rounding
from airlora.codec.encoder.sources import HeadTensor, ModuleUpdate
from airlora.codec.encoder.stream import EncodeOptions, encode_delta, encode_stream, verify_earlier

__all__ = [
    "Bits",
    "EncodeOptions",
    "ErrorMetric",
    "HeadTensor",
    "ModuleUpdate",
    "PreviewedItem",
    "Rounding",
    "StreamPreview",
    "encode_delta",
    "encode_stream",
    "preview_stream",
    "verify_earlier",
]
