"""How much a stream may claim before it is refused."""

from __future__ import annotations

from dataclasses import dataclass, fields

from airlora.errors import SettingsError

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that a decoder checks before it allocates; the numbers it makes are 4 bytes each.

    Args:
        max_modules: Adapted modules.
        max_tensors: Tensors of the head.
        max_dim: Length of a vector, or of one side of a tensor.
        max_rank: Components per module.
        max_numbers: Numbers decoded in all, refinements included.
        max_header_bytes: The header, unpacked.
        max_segments: Segments.
        max_segment_bytes: One segment.

    Raises:
        SettingsError: A bound is below 1.
    """

    max_modules: int = 8192
    max_tensors: int = 1024
    max_dim: int = 1 << 22
    max_rank: int = 4096
    max_numbers: int = 1 << 28
    max_header_bytes: int = 1 << 20
    max_segments: int = 1 << 16
    max_segment_bytes: int = 1 << 26

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise SettingsError.of(field.name, value, "a whole number, 1 or more")
