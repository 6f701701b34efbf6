import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.codec.encoder.costs import code_lengths
from airlora.codec.format.entropy import BlockReader, BlockWriter
from airlora.codec.format.quantiser import MAX_SYMBOL
from airlora.codec.format.tables import NUM_TABLES
from airlora.codec.format.varint import ByteReader, encode_varint
from airlora.errors import CodecError

SYMBOLS = st.lists(st.one_of(st.integers(-4, 4), st.integers(-MAX_SYMBOL, MAX_SYMBOL)), max_size=60)


@given(st.lists(st.tuples(SYMBOLS, st.integers(0, NUM_TABLES - 1)), max_size=5), st.binary(max_size=9))
def test_a_block_returns_its_symbols_varints_and_bytes(columns: list[tuple[list[int], int]], raw: bytes) -> None:
    writer = BlockWriter()
    for symbols, table in columns:
        writer.put(np.array(symbols, dtype=np.int32), table)
    writer.put_uniform(np.arange(7), 7)
    writer.tail += encode_varint(300) + raw
    reader = BlockReader(writer.finish(), "block")
    for symbols, table in columns:
        assert reader.take(len(symbols), table).tolist() == symbols
    assert reader.take_uniform(7, 7).tolist() == list(range(7))
    assert reader.tail.read_varint("n", 300) == 300
    assert reader.tail.take(len(raw)) == raw
    reader.finish()


def test_the_size_of_a_block_matches_the_code_lengths() -> None:
    symbols = np.rint(np.random.default_rng(0).laplace(0, 2, 5000)).astype(np.int32)
    table = 2 * 89 + 24 + 12
    writer = BlockWriter()
    writer.put(symbols, table)
    expected = code_lengths()[table][np.abs(symbols)].sum() / 8
    assert expected <= len(writer.finish()) <= expected + 11


def test_a_symbol_above_the_largest_magnitude_is_refused() -> None:
    with pytest.raises(CodecError, match="quantised value"):
        BlockWriter().put(np.array([MAX_SYMBOL + 1], dtype=np.int32), 0)


def test_leftover_words_and_bytes_are_refused() -> None:
    writer = BlockWriter()
    writer.put(np.arange(40, dtype=np.int32), 40)
    block = writer.finish()
    reader = BlockReader(block, "block")
    reader.take(20, 40)
    with pytest.raises(CodecError, match="left over"):
        reader.finish()
    reader = BlockReader(block + b"\0", "block")
    reader.take(40, 40)
    with pytest.raises(CodecError, match="1 unexpected bytes"):
        reader.finish()


@pytest.mark.parametrize("block", [b"", b"\x05", b"\x01\0\0\0\0", b"\x80\x00", b"\xff" * 12])
def test_damaged_blocks_are_refused(block: bytes) -> None:
    with pytest.raises(CodecError, match="block"):
        BlockReader(block, "block")


@given(st.binary(max_size=80), st.integers(0, NUM_TABLES - 1), st.integers(0, 500))
def test_any_bytes_decode_to_bounded_symbols_or_are_refused(data: bytes, table: int, count: int) -> None:
    try:
        symbols = BlockReader(data, "block").take(count, table)
    except CodecError:
        return
    assert len(symbols) == count
    assert np.abs(symbols).max(initial=0) <= MAX_SYMBOL


@given(st.integers(0, 2**63 - 1))
def test_a_varint_survives_encoding(value: int) -> None:
    reader = ByteReader(encode_varint(value), "bytes")
    assert reader.read_varint("n", 2**63 - 1) == value
    reader.finish()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80", "ends early"),
        (b"\x81\x00", "shortest form"),
        (b"\x05", "0 to 4"),
        (b"\xff" * 11, "more than 63 bits"),
    ],
)
def test_invalid_varints_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        ByteReader(data, "bytes").read_varint("n", 4)
