"""Whole numbers to bytes and back under the fixed tables, one self-contained block per segment.

| bytes | hold |
|---|---|
| varint n | number of 32-bit words |
| 4 n | the words of an ANS coder (`constriction`), little-endian |
| rest | the tail: escaped numbers and raw values, in the order they are met |

ANS gives back what was put in last, so a block is written in reverse and read forward.  A block costs 4 bytes more
than the information in it, on average.
"""

from __future__ import annotations

import functools
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from airlora.codec.format.quantiser import MAX_SYMBOL
from airlora.codec.format.tables import NUM_TABLES, frequencies, largest_symbol
from airlora.codec.format.varint import ByteReader, varint
from airlora.errors import CodecError

__all__ = ["BlockReader", "BlockWriter"]


@functools.lru_cache(maxsize=NUM_TABLES)
def _model(table: int) -> Any:
    # constriction gives symbol i the frequency 1 + floor(p_i (2^24 - n) / sum p).  With p_i = f_i - 1 the quotient is 1
    # and every number a small integer: the frequencies are exactly f_i, whatever the machine.
    return constriction.stream.model.Categorical((frequencies(table) - 1).astype(np.float64), perfect=False)


@functools.lru_cache(maxsize=4096)
def _uniform(size: int) -> Any:
    return constriction.stream.model.Uniform(size)


class BlockWriter:
    """Collects whole numbers and raw values of a block."""

    def __init__(self) -> None:
        self._pushes: list[tuple[NDArray[np.int32], Any]] = []
        self._tail = bytearray()

    def put(self, symbols: NDArray[Any], table: int) -> None:
        """Append numbers coded under `table`.

        Raises:
            CodecError: A magnitude is above `MAX_SYMBOL`.
        """
        largest = largest_symbol(table)
        codes = np.asarray(symbols, dtype=np.int32) + np.int32(largest)
        outside = np.flatnonzero((codes < 0) | (codes > 2 * largest))
        for place in outside:
            value = int(symbols[place])
            if abs(value) > MAX_SYMBOL:
                raise CodecError.of("a quantised number", value, f"-{MAX_SYMBOL} to {MAX_SYMBOL}")
            self._tail += varint(2 * (abs(value) - largest - 1) + (value < 0))
        codes[outside] = 2 * largest + 1
        self._pushes.append((codes, _model(table)))

    def put_uniform(self, values: NDArray[Any], size: int) -> None:
        """Append numbers from 0 to `size` - 1, each as likely as another."""
        if size > 1:
            self._pushes.append((np.asarray(values, dtype=np.int32), _uniform(size)))

    def put_number(self, value: int) -> None:
        """Append a number >= 0 as it is."""
        self._tail += varint(value)

    def put_raw(self, data: bytes) -> None:
        """Append bytes as they are."""
        self._tail += data

    def finish(self) -> bytes:
        """Return the block."""
        coder = constriction.stream.stack.AnsCoder()
        for symbols, model in reversed(self._pushes):
            if len(symbols):
                coder.encode_reverse(symbols, model)
        words: NDArray[np.uint32] = coder.get_compressed()
        return varint(len(words)) + words.astype("<u4").tobytes() + bytes(self._tail)


class BlockReader:
    """Reads a block of `BlockWriter`; sizes come from the caller, who must bound them.

    Args:
        data: The block.
        what: Its name in errors.

    Raises:
        CodecError: The block is damaged.
    """

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self._what = what
        self._tail = ByteReader(data, what)
        count = self._tail.number("number of words", len(data) // 4)
        words = np.frombuffer(self._tail.take(4 * count), dtype="<u4").astype(np.uint32)
        if count and words[-1] == 0:
            raise CodecError(f"{what}: damaged (its coded words end in zero)")
        self._coder = constriction.stream.stack.AnsCoder(words)

    def get(self, count: int, table: int) -> NDArray[np.int32]:
        """Return the next `count` numbers coded under `table`."""
        largest = largest_symbol(table)
        symbols: NDArray[np.int32] = self._coder.decode(_model(table), count)
        symbols -= np.int32(largest)
        escape = largest + 1
        if count and symbols.max() == escape:
            for place in np.flatnonzero(symbols == escape):
                excess, negative = divmod(self._tail.number("escaped number", 2 * MAX_SYMBOL + 1), 2)
                magnitude = excess + largest + 1
                if magnitude > MAX_SYMBOL:
                    raise CodecError.of(f"{self._what}: escaped number", magnitude, f"at most {MAX_SYMBOL}")
                symbols[place] = -magnitude if negative else magnitude
        return symbols

    def get_uniform(self, count: int, size: int) -> NDArray[np.int32]:
        """Return the next `count` numbers from 0 to `size` - 1."""
        if size <= 1:
            return np.zeros(count, dtype=np.int32)
        symbols: NDArray[np.int32] = self._coder.decode(_uniform(size), count)
        return symbols

    def get_raw(self, count: int) -> bytes:
        """Return the next `count` raw bytes."""
        return self._tail.take(count)

    def number(self, name: str, limit: int) -> int:
        """Return the next plain number."""
        return self._tail.number(name, limit)

    def finish(self) -> None:
        """Raise `CodecError` if anything is left in the block."""
        if not self._coder.is_empty():
            raise CodecError(f"{self._what}: damaged (coded words are left over)")
        self._tail.finish()
