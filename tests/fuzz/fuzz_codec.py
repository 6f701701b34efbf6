"""Coverage-guided fuzzing of the stream decoder.

python tests/fuzz/fuzz_codec.py [CORPUS] [-max_total_time=300] [-runs=1000000]

The decoder must decode any bytes or refuse them with `CodecError`, quickly and with little memory. A fuzzer cannot
guess SHA-256 digests. The first byte of an input therefore selects what the rest is used as: the whole stream, the
header fields before or after compression, the segment list, the segment of a full stream, or the segment of a delta
stream.
All but the whole stream get valid digests. Requires `pip install atheris`.
"""

from __future__ import annotations

import hashlib
import struct
import sys
import zlib

try:
    import atheris
except ImportError:
    sys.exit("fuzzing needs atheris, which is not installed: pip install atheris")

with atheris.instrument_imports(include=["airlora.codec"]):
    import numpy as np

    from airlora.codec import DenseTensor, Limits, ModuleUpdate, StreamHeader, decode_stream, describe, encode_stream
    from airlora.codec.format.container import pack_index
    from airlora.codec.format.header import pack_header
from airlora.errors import CodecError
from airlora.ranks import ModuleShape

LIMITS = Limits(max_values=1 << 18)
HEADER = StreamHeader("0" * 64, {"a.0": ModuleShape(12, 9), "a.1": ModuleShape(12, 9)}, {"w": (3, 4)}, r_max=6)


def small_stream() -> bytes:
    generator = np.random.default_rng(0)
    updates = {
        name: ModuleUpdate(generator.standard_normal((9, 6)), generator.standard_normal((6, 12)), np.ones(6))
        for name in HEADER.modules
    }
    return encode_stream(HEADER, updates, {"w": DenseTensor(generator.standard_normal((3, 4)), 5.0)}, bits=4)


STREAM = small_stream()
BASE = decode_stream(STREAM)
DELTA = StreamHeader("0" * 64, HEADER.modules, HEADER.tensors, r_max=6, base_stream=BASE.digest)
_FIXED = struct.Struct("<4sBBII")


def with_digest(header: bytes, segment_list: bytes, rest: bytes) -> bytes:
    fixed = _FIXED.pack(b"AIRS", 1, 1, len(header), len(segment_list))
    return fixed + hashlib.sha256(fixed + header + segment_list).digest() + header + segment_list + rest


def deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    return deflate.compress(data) + deflate.flush()


def test_one_input(data: bytes) -> None:
    kind, rest = (data[0] % 6 if data else 0), data[1:]
    base = None
    if kind == 0:
        stream = rest
    elif kind == 1:
        stream = with_digest(deflated(rest), b"\0", b"")
    elif kind == 2:
        stream = with_digest(rest, b"\0", b"")
    elif kind == 3:
        stream = with_digest(pack_header(HEADER), rest, b"")
    elif kind == 4:
        stream = pack_index(HEADER, [rest or b"\0"]) + (rest or b"\0")
    else:
        base = BASE
        stream = pack_index(DELTA, [rest or b"\0"]) + (rest or b"\0")
    try:
        decoded = decode_stream(stream, limits=LIMITS, base=base)
        describe(stream, limits=LIMITS, base=base)
    except CodecError as error:
        if "\n" in str(error):
            raise AssertionError("an error message has more than one line") from error
        return
    num_values = sum(u.size + v.size for u, v in decoded.modules.values())
    if num_values > LIMITS.max_values or decoded.bytes_used > len(stream):
        raise AssertionError("a limit is exceeded")


def main() -> None:
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
