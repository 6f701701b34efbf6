"""Checks of channel quantities, and decibels.

Each `verify_*` function returns nothing. It raises `ChannelError` with the quantity's name, its value and what is
allowed. `airlora.channel.settings` holds the ranges of the quantities.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection
from numbers import Integral, Real

from annotated_types import Interval

from airlora.errors import ChannelError

__all__ = ["NON_NEGATIVE", "POSITIVE", "db_to_linear", "linear_to_db", "verify_choice", "verify_count", "verify_number"]

NON_NEGATIVE = Interval(ge=0)
POSITIVE = Interval(gt=0)

DECIBELS = Interval(ge=-3000, le=3000)
"""Range of decibels whose power ratio is a finite float above 0."""


def verify_number(name: str, value: object, allowed: Interval) -> None:
    """Raise `ChannelError` unless the value is a finite real number within an interval.

    Args:
        name: Name of the quantity, for the message.
        value: Value of the quantity. A bool is not a number.
        allowed: Interval of the allowed numbers.

    Examples:
        >>> verify_number("share", 0.5, Interval(ge=0, le=1))
    """
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    bounds = [
        (is_within(number, bound), words.format(bound))
        for is_within, words, bound in (
            (operator.gt, "above {:g}", allowed.gt),
            (operator.ge, "{:g} or more", allowed.ge),
            (operator.lt, "below {:g}", allowed.lt),
            (operator.le, "{:g} at most", allowed.le),
        )
        if bound is not None
    ]
    if not (math.isfinite(number) and all(is_met for is_met, _ in bounds)):
        ends = [words for _, words in bounds] + ["finite"] * (allowed.lt is None and allowed.le is None)
        raise ChannelError.of(name, value, f"a number, {' and '.join(ends)}")


def verify_count(name: str, value: object) -> None:
    """Raise `ChannelError` unless the value is a whole number, 0 or more."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
        raise ChannelError.of(name, value, "a whole number, 0 or more")


def verify_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise `ChannelError` unless the value is one of the choices."""
    if value not in choices:
        raise ChannelError.of(name, value, f"one of {', '.join(choices)}")


def db_to_linear(value_db: float) -> float:
    r"""Return the power ratio $10^{x/10}$ of x decibels.

    Raises:
        ChannelError: The value is not finite, or outside -3000 to 3000 dB.

    Examples:
        >>> db_to_linear(20.0)
        100.0
    """
    verify_number("value_db", value_db, DECIBELS)
    return float(10.0 ** (value_db / 10.0))


def linear_to_db(ratio: float) -> float:
    r"""Return $10 \log_{10} x$, the decibels of a power ratio x.

    Raises:
        ChannelError: The ratio is not finite, or not above 0.

    Examples:
        >>> linear_to_db(100.0)
        20.0
    """
    verify_number("ratio", ratio, POSITIVE)
    return 10.0 * math.log10(ratio)
