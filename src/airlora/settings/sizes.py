"""Sizes as people write them."""

from __future__ import annotations

from airlora.errors import SettingsError

__all__ = ["parse_size"]

_UNITS = {"": 1, "B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3}


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `20kB`, `1.5 MiB` or `4096`.

    Raises:
        SettingsError: It is no size.

    >>> parse_size("20kB"), parse_size("1.5 KiB"), parse_size("512")
    (20000, 1536, 512)
    """
    number = text.strip().rstrip("BKMGIbkmgi").strip()
    unit = text.strip()[len(number) :].strip().upper()
    try:
        size = float(number) * _UNITS[unit]
    except (KeyError, ValueError):
        size = -1.0
    if not 0 <= size < 2**63:
        raise SettingsError.of("size", text, "a number of bytes, such as 4096, 20kB or 1.5MiB")
    return int(size)
