"""Byte format of a stream and its decoder: everything a device needs to read a stream.

Requires NumPy and constriction only. Nothing in this package imports `airlora.codec.encoder`.
"""

from airlora.codec.format.container import FORMAT_VERSION, StreamHead, unpack_head
from airlora.codec.format.decode import cut, decode_delta, decode_stream, describe, read_stream
from airlora.codec.format.header import StreamHeader
from airlora.codec.format.limits import Limits
from airlora.codec.format.reader import DecodedStream, StreamReader

__all__ = [
    "FORMAT_VERSION",
    "DecodedStream",
    "Limits",
    "StreamHead",
    "StreamHeader",
    "StreamReader",
    "cut",
    "decode_delta",
    "decode_stream",
    "describe",
    "read_stream",
    "unpack_head",
]
