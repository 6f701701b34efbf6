"""Whole numbers as bytes, seven bits to the byte, least significant first; one number has one form only."""

from __future__ import annotations

from airlora.errors import CodecError

__all__ = ["ByteReader", "varint"]


def varint(value: int) -> bytes:
    """Return the bytes of a number >= 0.

    >>> varint(300).hex()
    'ac02'
    """
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    result.append(value)
    return bytes(result)


class ByteReader:
    """Reads bytes and numbers one after the other; never past the end.

    Args:
        data: The bytes.
        what: Their name in errors.
    """

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self._data = memoryview(data)
        self._what = what
        self._place = 0

    @property
    def remaining(self) -> int:
        """Bytes that are left."""
        return len(self._data) - self._place

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes; raises `CodecError` if there are fewer."""
        if count > self.remaining:
            raise CodecError(f"{self._what}: ends early, {count} more bytes are needed and {self.remaining} are left")
        start = self._place
        self._place += count
        return bytes(self._data[start : self._place])

    def number(self, name: str, limit: int) -> int:
        """Return the next number.

        Raises:
            CodecError: It is above `limit`, not in its shortest form, or cut off.
        """
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift > 63:
                raise CodecError.of(f"{self._what}: {name}", "a number of more than 63 bits", f"0 to {limit}")
        if byte == 0 and shift > 7:
            raise CodecError(f"{self._what}: {name} is not in its shortest form")
        if value > limit:
            raise CodecError.of(f"{self._what}: {name}", value, f"0 to {limit}")
        return value

    def finish(self) -> None:
        """Raise `CodecError` if bytes are left."""
        if self.remaining:
            raise CodecError(f"{self._what}: {self.remaining} bytes too many")
