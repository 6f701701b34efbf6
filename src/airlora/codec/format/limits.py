"""Upper bounds that a decoder enforces before it allocates memory."""

from __future__ import annotations

from dataclasses import dataclass, fields

from airlora.errors import SettingsError

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds on what a stream may declare.

    Args:
        max_modules: Largest number of adapted modules.
        max_tensors: Largest number of dense tensors.
        max_dim: Largest length of a vector or of one axis of a tensor.
        max_rank: Largest number of components per module.
        max_values: Largest number of decoded values, refinements included. Each takes 4 bytes of memory.
        max_header_bytes: Largest size of the stream header's fields, compressed and decompressed, in bytes.
        max_segments: Largest number of segments.
        max_segment_bytes: Largest size of one segment in bytes.

    Raises:
        SettingsError: A bound is not a whole number of 1 or more.
    """

    max_modules: int = 8192
    max_tensors: int = 1024
    max_dim: int = 1 << 22
    max_rank: int = 4096
    max_values: int = 1 << 28
    max_header_bytes: int = 1 << 20
    max_segments: int = 1 << 16
    max_segment_bytes: int = 1 << 26

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise SettingsError.of(field.name, value, "a whole number, 1 or more")
