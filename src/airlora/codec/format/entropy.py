"""Entropy coding of symbols with the fixed tables. Each segment is one self-contained block.

| bytes | content |
|---|---|
| varint n | number of 32-bit words |
| 4 n | words of an ANS coder (`constriction`), little-endian |
| rest | tail: escaped symbols, varints and raw bytes, in the order in which they are read |

ANS is last in, first out. The writer therefore encodes in reverse, and the reader decodes in order. A block is on
average 4 bytes longer than its information content.
"""

from __future__ import annotations

import functools
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from airlora.codec.format.quantiser import MAX_SYMBOL
from airlora.codec.format.tables import frequencies, largest_symbol
from airlora.codec.format.varint import ByteReader, encode_varint
from airlora.errors import CodecError

__all__ = ["BlockReader", "BlockWriter"]


@functools.cache
def _table_model(table: int) -> Any:
    # constriction gives symbol i the frequency 1 + floor(p_i (2^24 - n) / sum p). With p_i = f_i - 1 the quotient is 1
    # and all terms are small integers. The frequencies are therefore exactly f_i on every machine.
    return constriction.stream.model.Categorical((frequencies(table) - 1).astype(np.float64), perfect=False)


@functools.lru_cache(maxsize=4096)
def _uniform_model(size: int) -> Any:
    return constriction.stream.model.Uniform(size)


class BlockWriter:
    """Writer of one block.

    Attributes:
        tail: Varints and raw bytes of the tail so far. The caller may append to it.
    """

    def __init__(self) -> None:
        self._columns: list[tuple[NDArray[np.int32], Any]] = []
        self.tail = bytearray()

    def put(self, symbols: NDArray[Any], table: int) -> None:
        """Append symbols encoded with a table.

        Args:
            symbols: Integers, [length].
            table: Table index, see `frequencies`.

        Raises:
            CodecError: The magnitude of a symbol exceeds `MAX_SYMBOL`.
        """
        largest = largest_symbol(table)
        codes = np.asarray(symbols, dtype=np.int32) + np.int32(largest)
        escaped = np.flatnonzero((codes < 0) | (codes > 2 * largest))
        for position in escaped:
            symbol = int(symbols[position])
            if abs(symbol) > MAX_SYMBOL:
                raise CodecError.of("quantised value", symbol, f"-{MAX_SYMBOL} to {MAX_SYMBOL}")
            self.tail += encode_varint(2 * (abs(symbol) - largest - 1) + (symbol < 0))
        codes[escaped] = 2 * largest + 1
        self._columns.append((codes, _table_model(table)))

    def put_uniform(self, values: NDArray[Any], size: int) -> None:
        """Append integers from 0 to `size` - 1, encoded with equal probabilities."""
        if size > 1:
            self._columns.append((np.asarray(values, dtype=np.int32), _uniform_model(size)))

    def finish(self) -> bytes:
        """Return the block."""
        coder = constriction.stream.stack.AnsCoder()
        for symbols, model in reversed(self._columns):
            if len(symbols):
                coder.encode_reverse(symbols, model)
        words: NDArray[np.uint32] = coder.get_compressed()
        return encode_varint(len(words)) + words.astype("<u4").tobytes() + bytes(self.tail)


class BlockReader:
    """Reader of a block that `BlockWriter` wrote.

    The caller passes the number of symbols to each method and must bound it.

    Args:
        data: Bytes of the block.
        name: Name of the block in error messages.

    Attributes:
        tail: Reader of the varints and raw bytes in the tail.

    Raises:
        CodecError: The block is damaged.
    """

    def __init__(self, data: bytes | memoryview, name: str) -> None:
        self._name = name
        self.tail = ByteReader(data, name)
        count = self.tail.read_varint("number of words", len(data) // 4)
        words = np.frombuffer(self.tail.take(4 * count), dtype="<u4").astype(np.uint32)
        if count and words[-1] == 0:
            raise CodecError(f"{name}: damaged (its last coded word is zero)")
        self._coder = constriction.stream.stack.AnsCoder(words)

    def take(self, count: int, table: int) -> NDArray[np.int32]:
        """Return the next `count` symbols, which are encoded with a table.

        Raises:
            CodecError: An escaped symbol is damaged.
        """
        largest = largest_symbol(table)
        symbols: NDArray[np.int32] = self._coder.decode(_table_model(table), count)
        symbols -= np.int32(largest)
        escape = largest + 1
        if count and symbols.max() == escape:
            for position in np.flatnonzero(symbols == escape):
                excess, negative = divmod(self.tail.read_varint("escaped symbol", 2 * MAX_SYMBOL + 1), 2)
                magnitude = excess + largest + 1
                if magnitude > MAX_SYMBOL:
                    raise CodecError.of(f"{self._name}: escaped symbol", magnitude, f"at most {MAX_SYMBOL}")
                symbols[position] = -magnitude if negative else magnitude
        return symbols

    def take_uniform(self, count: int, size: int) -> NDArray[np.int32]:
        """Return the next `count` integers from 0 to `size` - 1."""
        if size <= 1:
            return np.zeros(count, dtype=np.int32)
        symbols: NDArray[np.int32] = self._coder.decode(_uniform_model(size), count)
        return symbols

    def finish(self) -> None:
        """Raise `CodecError` if unread words or bytes are left."""
        if not self._coder.is_empty():
            raise CodecError(f"{self._name}: damaged (coded words are left over)")
        self.tail.finish()
