import hashlib
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airlora.codec import (
    DecodedStream,
    DenseTensor,
    Limits,
    ModuleUpdate,
    StreamHeader,
    StreamReader,
    decode_stream,
    encode_stream,
)
from airlora.codec.format.container import pack_index, unpack_index
from airlora.codec.format.items import Item, Kind, Layout, ValueFormat, ValueGroup
from airlora.codec.format.segments import pack_segment
from airlora.errors import CodecError
from airlora.ranks import ModuleShape

Source = tuple[StreamHeader, dict[str, ModuleUpdate], dict[str, DenseTensor]]
Make = Callable[..., Source]
SMALL = StreamHeader("0" * 64, {"a": ModuleShape(4, 3)}, {"w": (2,)}, r_max=2)


def stream_of(header: StreamHeader, segment: bytes) -> bytes:
    """Return a stream with one segment and valid digests, whatever the segment contains."""
    return pack_index(header, [segment]) + segment


def small_stream(*items: Item) -> bytes:
    return stream_of(SMALL, pack_segment(items, Layout(SMALL)))


def small_item(target: int, **fields: Any) -> Item:
    """Return an item of `SMALL` whose symbols are all 1 and whose step is 2^-4."""
    lengths = Layout(SMALL).vectors[target]
    groups = tuple(ValueGroup(ValueFormat.QUANTISED, np.ones(n, dtype=np.int32), -64, 40) for n in lengths)
    return Item(**({"kind": Kind.NEW, "target": target, "groups": groups} | fields))


def content(decoded: DecodedStream) -> list[tuple[str, tuple[int, ...], bytes]]:
    arrays = {f"U.{name}": U for name, (U, _) in decoded.modules.items()}
    arrays |= {f"V.{name}": V for name, (_, V) in decoded.modules.items()} | dict(decoded.tensors)
    return [(name, array.shape, array.tobytes()) for name, array in arrays.items()]


def test_strict_decoding_refuses_a_truncated_stream(source: Source) -> None:
    data = encode_stream(*source)
    with pytest.raises(CodecError, match="the stream is truncated"):
        decode_stream(data[:-1], strict=True)


def test_a_stream_truncated_inside_its_header_is_refused(source: Source) -> None:
    data = encode_stream(*source)
    for length in range(unpack_index(data, Limits()).num_bytes):
        with pytest.raises(CodecError, match=r"truncated inside its header|not written by airlora"):
            decode_stream(data[:length])


def test_a_reader_takes_segments_one_by_one(make: Make) -> None:
    data = encode_stream(*make(d=128, rank=8), max_distortion=0.02)
    reader = StreamReader(data[:1000])
    while reader.next_range is not None:
        start, end = reader.next_range
        reader.feed(data[start:end])
        assert content(reader.result()) == content(decode_stream(data[:end]))
    assert reader.is_complete
    with pytest.raises(CodecError, match="number of segments"):
        reader.feed(b"")


def test_the_digest_covers_the_stream_header(source: Source) -> None:
    data = encode_stream(*source)
    index = unpack_index(data, Limits())
    assert index.digest == hashlib.sha256(data[:14] + data[46 : index.num_bytes]).hexdigest()


def test_every_flipped_bit_is_refused(make: Make) -> None:
    data = encode_stream(*make(layers=1, d=8))
    assert len(data) < 900
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(CodecError) as raised:
            decode_stream(bytes(damaged))
        assert "\n" not in str(raised.value)


def test_reordered_repeated_missing_and_extra_segments_are_refused(make: Make) -> None:
    data = encode_stream(*make(d=128, rank=8), max_distortion=0.02)
    index = unpack_index(data, Limits())
    ends = np.cumsum([index.num_bytes, *index.lengths])
    start, *segments = (data[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True))
    for order in ([1, 0, *range(2, len(segments))], [0, 0, *range(1, len(segments))], [*range(1, len(segments))]):
        with pytest.raises(CodecError, match=r"segment \d+: damaged or out of order|stream: length"):
            decode_stream(start + b"".join(segments[number] for number in order))
    with pytest.raises(CodecError, match="stream: length"):
        decode_stream(data + b"\0")


@pytest.mark.parametrize(
    ("position", "version", "message"),
    [(4, 3, "version of the format = 3: allowed is 1 to 2"), (5, 2, "version of the entropy tables = 2: allowed is 1")],
)
def test_a_newer_version_is_refused(source: Source, position: int, version: int, message: str) -> None:
    data = bytearray(encode_stream(*source))
    data[position] = version
    with pytest.raises(CodecError, match=f"{message}; a newer airlora"):
        decode_stream(bytes(data))


@pytest.mark.parametrize("data", [b"", b"AIR", b"PK\3\4" * 100, b"\0" * 100])
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CodecError, match="not written by airlora"):
        decode_stream(data)


@pytest.mark.parametrize("lengths", [(0xFFFFFFFF, 1), (1, 0xFFFFFFFF)])
def test_absurd_lengths_in_the_stream_header_are_refused(source: Source, lengths: tuple[int, int]) -> None:
    data = bytearray(encode_stream(*source))
    data[6:10], data[10:14] = (value.to_bytes(4, "little") for value in lengths)
    with pytest.raises(CodecError, match="at most"):
        decode_stream(bytes(data))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([small_item(0)] * 3, "components of a = 3: allowed is at most r_max = 2"),
        ([small_item(0, kind=Kind.REFINE)], "component of a to refine = 0"),
        ([small_item(1), small_item(1)], "tensor w: is created twice"),
        ([small_item(1, kind=Kind.REFINE)], "tensor w: is refined before it is created"),
        ([Item(Kind.COPY, 0)], "component 0 of a: cannot be copied"),
        ([Item(Kind.COPY, 1)], "tensor w: cannot be copied"),
        ([small_item(0, num_groups=4)], "groups of a = 4: allowed is 1 to 3"),
        ([small_item(0, num_groups=-3)], "groups of a = -3"),
    ],
)
def test_invalid_items_are_refused(items: list[Item], message: str) -> None:
    with pytest.raises(CodecError, match=message):
        decode_stream(small_stream(*items))


def test_values_that_are_not_finite_are_refused() -> None:
    group = ValueGroup(ValueFormat.FLOAT32, np.array([1, np.inf], dtype=np.float32))
    with pytest.raises(CodecError, match="not finite"):
        decode_stream(small_stream(Item(Kind.NEW, 1, groups=(group,))))


def test_a_refinement_is_added_to_its_component() -> None:
    decoded = decode_stream(small_stream(small_item(0), small_item(0, kind=Kind.REFINE), small_item(1)))
    assert (decoded.modules["a"][0] == 2 * 2.0**-4).all()
    assert decoded.tensors["w"].tolist() == [2.0**-4] * 2
    assert decoded.num_components == 1


def test_a_segment_that_declares_more_values_than_its_bytes_can_hold_needs_no_memory() -> None:
    huge = StreamHeader("0" * 64, {"a": ModuleShape(1 << 22, 1 << 22)}, r_max=4096)
    tiny = StreamHeader("0" * 64, {"a": ModuleShape(1, 1)}, r_max=4096)
    zero = (ValueGroup(ValueFormat.QUANTISED, np.zeros(1, dtype=np.int32)),) * 2
    # Under the huge header, the same bytes declare three items of eight million values each.
    data = stream_of(huge, pack_segment([Item(Kind.NEW, 0, groups=zero)] * 3, Layout(tiny)))
    tracemalloc.start()
    with pytest.raises(CodecError, match="number of declared encoded values"):
        decode_stream(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_the_total_number_of_values_is_limited(source: Source) -> None:
    with pytest.raises(CodecError, match="number of declared values"):
        decode_stream(encode_stream(*source, bits=8), limits=Limits(max_values=500))


@pytest.mark.parametrize(
    ("limits", "message"),
    [(Limits(max_segments=1), "bytes of the segment list"), (Limits(max_segment_bytes=99), "length of a segment")],
)
def test_the_number_and_the_size_of_segments_are_limited(make: Make, limits: Limits, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        decode_stream(encode_stream(*make(d=128, rank=8), max_distortion=0.02), limits=limits)


@settings(max_examples=300)
@given(st.binary(max_size=120))
def test_any_segment_with_a_valid_digest_decodes_or_is_refused(segment: bytes) -> None:
    header = StreamHeader("0" * 64, {"a": ModuleShape(5, 6), "b": ModuleShape(9, 2)}, {"w": (3, 4)}, r_max=5)
    try:
        decoded = decode_stream(stream_of(header, segment or b"\0"))
    except CodecError:
        return
    assert decoded.is_complete
    assert all(np.isfinite(U).all() and np.isfinite(V).all() for U, V in decoded.modules.values())
