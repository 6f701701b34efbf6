"""Sizes in bytes with units."""

from __future__ import annotations

import re

from pydantic import ByteSize, TypeAdapter, ValidationError

from airlora.errors import SettingsError

__all__ = ["parse_size"]

_SIZE = re.compile(r"\s*(?P<number>[\d.]+(?:e\+?\d+)?)\s*(?P<unit>[a-z]*)\s*", re.IGNORECASE)
_BYTES = TypeAdapter(ByteSize)


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `20kB`, `1.5 MiB` or `4096`.

    Raises:
        SettingsError: The text is not a size, or the size is 2^63 bytes or more.

    Examples:
        >>> parse_size("20kB"), parse_size("1.5 KiB"), parse_size("512")
        (20000, 1536, 512)
    """
    found = _SIZE.fullmatch(text)
    try:
        # ByteSize reads no exponents.
        size = _BYTES.validate_python(f"{float(found['number']):.9f}{found['unit']}") if found else 2**63
    except (ValidationError, ValueError):
        size = 2**63
    if size >= 2**63:
        raise SettingsError.of("size", text, "a number of bytes, such as 4096, 20kB or 1.5MiB")
    return int(size)
