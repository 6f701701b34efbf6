import dataclasses
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.codec import Limits, StreamHeader
from airlora.codec.header import _unpack_metadata, pack_header, unpack_header
from airlora.errors import CodecError, SettingsError
from airlora.ranks import ModuleShape

FINGERPRINT = "ab" * 32
NAMES = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=12)


def transformer(layers: int) -> dict[str, ModuleShape]:
    return {
        f"encoder.layer.{layer}.{name}": ModuleShape(d_in=d_in, d_out=d_out)
        for layer in range(layers)
        for name, d_in, d_out in (
            ("attention.self.query", 384, 384),
            ("attention.self.key", 384, 384),
            ("attention.self.value", 384, 384),
            ("attention.output.dense", 384, 384),
            ("intermediate.dense", 384, 1536),
            ("output.dense", 1536, 384),
        )
    }


@given(
    st.dictionaries(NAMES, st.builds(ModuleShape, d_in=st.integers(1, 9999), d_out=st.integers(1, 9999)), min_size=1),
    st.dictionaries(NAMES, st.lists(st.integers(1, 9), max_size=4).map(tuple), max_size=4),
    st.integers(1, 4096),
    st.floats(1e-6, 1e6),
    st.none() | st.just("cd" * 32),
    st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=5), max_size=3),
)
def test_a_header_comes_back(modules, tensors, r_max, scale, base_stream, metadata) -> None:  # type: ignore[no-untyped-def]
    header = StreamHeader(FINGERPRINT, modules, tensors, r_max, scale, base_stream, metadata)
    again = unpack_header(pack_header(header), Limits())
    assert again == header
    assert list(again.modules) == list(modules)


def test_a_header_of_36_modules_takes_about_a_hundred_bytes_and_grows_slowly() -> None:
    small, large = (len(pack_header(StreamHeader(FINGERPRINT, transformer(layers)))) for layers in (6, 48))
    assert small <= 120
    assert large <= small + 20


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_fingerprint", "ab"),
        ("base_fingerprint", "AB" * 32),
        ("base_stream", "x" * 64),
        ("modules", {"": ModuleShape(1, 1)}),
        ("modules", {"a\n": ModuleShape(1, 1)}),
        ("modules", {"a" * 513: ModuleShape(1, 1)}),
        ("modules", {}),
        ("tensors", {"w": (0,)}),
        ("tensors", {"w": (1,) * 9}),
        ("r_max", 0),
        ("scale", 0.0),
        ("scale", float("nan")),
    ],
)
def test_bad_fields_are_refused(field: str, value: object) -> None:
    header = StreamHeader(FINGERPRINT, {"a": ModuleShape(1, 1)})
    with pytest.raises(CodecError):
        dataclasses.replace(header, **{field: value})  # type: ignore[arg-type]


def test_metadata_must_be_json() -> None:
    with pytest.raises(CodecError, match="metadata"):
        pack_header(StreamHeader(FINGERPRINT, {"a": ModuleShape(1, 1)}, metadata={"a": {1, 2}}))


def test_a_bomb_is_refused_before_it_unpacks() -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = deflate.compress(bytes(200_000_000)) + deflate.flush()
    with pytest.raises(CodecError, match="more than 1048576 bytes"):
        unpack_header(bomb, Limits())


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(max_modules=35), "number of modules = 36: allowed is 0 to 35"),
        (Limits(max_tensors=1), "number of tensors of the head"),
        (Limits(max_dim=1535), "shape of"),
        (Limits(max_rank=63), "r_max = 64: allowed is 0 to 63"),
        (Limits(max_numbers=700), "at most 700 numbers"),
        (Limits(max_header_bytes=50), "more than 50 bytes"),
    ],
)
def test_absurd_claims_are_refused(limits: Limits, message: str) -> None:
    header = StreamHeader(FINGERPRINT, transformer(6), {"weight": (2, 384), "bias": (2,)})
    with pytest.raises(CodecError, match=message):
        unpack_header(pack_header(header), limits)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_a_header(data: bytes) -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    for candidate in (data, deflate.compress(data) + deflate.flush()):
        try:
            header = unpack_header(candidate, Limits())
        except CodecError:
            continue
        assert unpack_header(pack_header(header), Limits()) == header


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_bad_limits_are_refused(value: object) -> None:
    with pytest.raises(SettingsError, match="max_rank"):
        Limits(max_rank=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [b'{"a":NaN}', b'{"a":[Infinity]}', b"[]", b"{"])
def test_metadata_that_are_no_json_object_are_refused(text: bytes) -> None:
    with pytest.raises(CodecError, match="metadata"):
        _unpack_metadata(text)
