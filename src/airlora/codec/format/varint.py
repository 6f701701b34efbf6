"""Variable-length integers (varints) and bounded reading of bytes.

A varint holds seven bits per byte, least significant first. The highest bit of a byte says whether another byte
follows. Every integer has exactly one valid encoding, the shortest.
"""

from __future__ import annotations

from airlora.errors import CodecError

__all__ = ["ByteReader", "encode_varint"]


def encode_varint(value: int) -> bytes:
    """Return the varint of an integer.

    Args:
        value: Integer, 0 or more.

    Examples:
        >>> encode_varint(300).hex()
        'ac02'
    """
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    result.append(value)
    return bytes(result)


class ByteReader:
    """Sequential reader that never reads past the end of its data.

    Args:
        data: Bytes to read.
        name: Name of the data in error messages.
    """

    def __init__(self, data: bytes | memoryview, name: str) -> None:
        self._data = memoryview(data)
        self._name = name
        self._position = 0

    @property
    def remaining(self) -> int:
        """Number of unread bytes."""
        return len(self._data) - self._position

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes.

        Raises:
            CodecError: Fewer than `count` bytes are left.
        """
        if count > self.remaining:
            raise CodecError(f"{self._name}: ends early; {count} more bytes are needed and {self.remaining} are left")
        start = self._position
        self._position += count
        return bytes(self._data[start : self._position])

    def read_varint(self, field: str, limit: int) -> int:
        """Return the integer that the next varint encodes.

        Args:
            field: Name of the integer in error messages.
            limit: Largest value allowed.

        Raises:
            CodecError: The varint exceeds `limit`, is not in its shortest form or is truncated.
        """
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift > 63:
                raise CodecError.of(f"{self._name}: {field}", "a varint of more than 63 bits", f"0 to {limit}")
        if byte == 0 and shift > 7:
            raise CodecError(f"{self._name}: {field} is not in its shortest form")
        if value > limit:
            raise CodecError.of(f"{self._name}: {field}", value, f"0 to {limit}")
        return value

    def finish(self) -> None:
        """Raise `CodecError` if unread bytes are left."""
        if self.remaining:
            raise CodecError(f"{self._name}: {self.remaining} unexpected bytes at the end")
