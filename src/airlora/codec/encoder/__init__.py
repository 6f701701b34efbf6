"""Encoder of streams: precision, rounding, choice of entropy tables, order of items, deltas and QAT preview."""

from airlora.codec.encoder.metric import ErrorMetric
from airlora.codec.encoder.precision import BitWidth
from airlora.codec.encoder.preview import PreviewedItem, StreamPreview, preview_stream
from airlora.codec.encoder.rounding import Rounding
from airlora.codec.encoder.sources import DenseTensor, ModuleUpdate
from airlora.codec.encoder.stream import EncodeOptions, encode_delta, encode_stream, verify_base_stream

__all__ = [
    "BitWidth",
    "DenseTensor",
    "EncodeOptions",
    "ErrorMetric",
    "ModuleUpdate",
    "PreviewedItem",
    "Rounding",
    "StreamPreview",
    "encode_delta",
    "encode_stream",
    "preview_stream",
    "verify_base_stream",
]
