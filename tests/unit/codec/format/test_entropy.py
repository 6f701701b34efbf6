import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.codec.encoder.costs import code_lengths
from airlora.codec.format.entropy import BlockReader, BlockWriter
from airlora.codec.format.quantiser import MAX_SYMBOL
from airlora.codec.format.tables import NUM_TABLES
from airlora.codec.format.varint import ByteReader, varint
from airlora.errors import CodecError

SYMBOLS = st.lists(st.one_of(st.integers(-4, 4), st.integers(-MAX_SYMBOL, MAX_SYMBOL)), max_size=60)


@given(st.lists(st.tuples(SYMBOLS, st.integers(0, NUM_TABLES - 1)), max_size=5), st.binary(max_size=9))
def test_a_block_gives_back_what_was_put_in(columns: list[tuple[list[int], int]], raw: bytes) -> None:
    writer = BlockWriter()
    for symbols, table in columns:
        writer.put(np.array(symbols, dtype=np.int32), table)
    writer.put_uniform(np.arange(7), 7)
    writer.put_number(300)
    writer.put_raw(raw)
    reader = BlockReader(writer.finish(), "block")
    for symbols, table in columns:
        assert reader.get(len(symbols), table).tolist() == symbols
    assert reader.get_uniform(7, 7).tolist() == list(range(7))
    assert reader.number("n", 300) == 300
    assert reader.get_raw(len(raw)) == raw
    reader.finish()


def test_a_block_is_as_long_as_the_code_lengths_say() -> None:
    symbols = np.rint(np.random.default_rng(0).laplace(0, 2, 5000)).astype(np.int32)
    table = 2 * 89 + 24 + 12
    writer = BlockWriter()
    writer.put(symbols, table)
    expected = code_lengths()[table][np.abs(symbols)].sum() / 8
    assert expected <= len(writer.finish()) <= expected + 11


def test_a_number_that_is_too_large_is_refused() -> None:
    with pytest.raises(CodecError, match="a quantised number"):
        BlockWriter().put(np.array([MAX_SYMBOL + 1], dtype=np.int32), 0)


def test_leftover_words_and_bytes_are_refused() -> None:
    writer = BlockWriter()
    writer.put(np.arange(40, dtype=np.int32), 40)
    block = writer.finish()
    reader = BlockReader(block, "block")
    reader.get(20, 40)
    with pytest.raises(CodecError, match="left over"):
        reader.finish()
    reader = BlockReader(block + b"\0", "block")
    reader.get(40, 40)
    with pytest.raises(CodecError, match="1 bytes too many"):
        reader.finish()


@pytest.mark.parametrize("block", [b"", b"\x05", b"\x01\0\0\0\0", b"\x80\x00", b"\xff" * 12])
def test_damaged_blocks_are_refused(block: bytes) -> None:
    with pytest.raises(CodecError, match="block"):
        BlockReader(block, "block")


@given(st.binary(max_size=80), st.integers(0, NUM_TABLES - 1), st.integers(0, 500))
def test_any_bytes_decode_to_bounded_numbers_or_are_refused(data: bytes, table: int, count: int) -> None:
    try:
        symbols = BlockReader(data, "block").get(count, table)
    except CodecError:
        return
    assert len(symbols) == count
    assert np.abs(symbols).max(initial=0) <= MAX_SYMBOL


@given(st.integers(0, 2**63 - 1))
def test_varints_round_trip(value: int) -> None:
    reader = ByteReader(varint(value), "bytes")
    assert reader.number("n", 2**63 - 1) == value
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
def test_bad_varints_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        ByteReader(data, "bytes").number("n", 4)
