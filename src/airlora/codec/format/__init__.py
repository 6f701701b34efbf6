"""Byte format of a stream and its decoder: everything that a device needs to read a stream.

Requires NumPy and constriction. Functions that write a structure are next to those that read it, but no module of this
package imports `airlora.codec.encoder`.
"""

from airlora.codec.format.container import StreamIndex, unpack_index
from airlora.codec.format.decode import decode_stream, describe, truncate
from airlora.codec.format.header import StreamHeader
from airlora.codec.format.limits import Limits
from airlora.codec.format.reader import DecodedStream, StreamReader

__all__ = [
    "DecodedStream",
    "Limits",
    "StreamHeader",
    "StreamIndex",
    "StreamReader",
    "decode_stream",
    "describe",
    "truncate",
    "unpack_index",
]
