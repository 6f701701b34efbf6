"""Identity of base models: fingerprints, and the levels at which two of them are the same.

A fingerprint has 64 hexadecimal digits. The first half is half of a SHA-256 of the weights. The second half is half of
a SHA-256 of the weights rounded to bfloat16.

| level | two base models are the same if |
|---|---|
| "exact" | all weights are equal, and their types are |
| "bfloat16" | all weights are equal after rounding to bfloat16 |

Fingerprints that were made before the second level have a whole SHA-256 of the weights. Its first half is that of
today's.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

from airlora.errors import SettingsError

__all__ = ["BaseLevel", "is_same_base", "parse_level"]

BaseLevel = Literal["exact", "bfloat16"]
"""Level at which two base models count as the same."""

_HALF = 32


def parse_level(text: str) -> BaseLevel:
    """Return a level from text.

    Raises:
        SettingsError: There is no such level.
    """
    for level in get_args(BaseLevel):
        if text == level:
            return cast("BaseLevel", level)
    raise SettingsError.of("accept_base", text, " or ".join(get_args(BaseLevel)))


def is_same_base(one: str, other: str, level: BaseLevel = "exact") -> bool:
    """Return whether two fingerprints belong to the same base model.

    Args:
        one: Fingerprint of a base model.
        other: Fingerprint to compare with.
        level: Level at which the models are compared.

    Examples:
        >>> is_same_base("a" * 64, "a" * 32 + "b" * 32)
        True
        >>> is_same_base("a" * 64, "b" * 32 + "a" * 32), is_same_base("a" * 64, "b" * 32 + "a" * 32, "bfloat16")
        (False, True)
    """
    return one[:_HALF] == other[:_HALF] or (level == "bfloat16" and one[_HALF:] == other[_HALF:])
