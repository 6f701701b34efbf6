"""What a channel quantity may be, checked once for the whole room, and decibels.

Every `verify_*` returns nothing and raises `ChannelError` with the quantity's name, its value and what is allowed.
"""

from __future__ import annotations

import math
from numbers import Integral, Real

from airlora.errors import ChannelError

__all__ = [
    "MAX_SNR_DB",
    "MIN_SNR_DB",
    "db_to_linear",
    "linear_to_db",
    "verify_bandwidth_hz",
    "verify_bits_per_param",
    "verify_block_s",
    "verify_capacity_bps",
    "verify_choice",
    "verify_count",
    "verify_deadline_s",
    "verify_doppler_hz",
    "verify_k_factor_db",
    "verify_number",
    "verify_outage_epsilon",
    "verify_snr_db",
]

MIN_SNR_DB = -50.0
"""Lowest SNR that is told apart, dB; a deeper fade counts as this one."""

MAX_SNR_DB = 100.0
"""Highest SNR that is told apart, dB."""

MAX_DB = 3000.0
"""Largest decibel value whose ratio is still a float."""


def verify_number(
    name: str, value: object, low: float, high: float, *, above: bool = False, below: bool = False
) -> None:
    """Raise `ChannelError` unless `value` is a finite real number from `low` to `high`.

    Args:
        name: The quantity, for the message.
        value: What was given.
        low: Least allowed.
        high: Greatest allowed; infinity for any finite number.
        above: Leave out `low` itself.
        below: Leave out `high` itself.

    >>> verify_number("share", 0.5, 0.0, 1.0)
    """
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    too_low = number <= low if above else number < low
    too_high = number >= high if below else number > high
    if math.isfinite(number) and not too_low and not too_high:
        return
    lower = f"above {low:g}" if above else f"{low:g} or more"
    upper = "finite" if math.isinf(high) else f"below {high:g}" if below else f"{high:g} at most"
    raise ChannelError.of(name, value, f"a number, {lower} and {upper}")


def verify_count(name: str, value: object) -> None:
    """Raise `ChannelError` unless `value` is a whole number, 0 or more."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
        raise ChannelError.of(name, value, "a whole number, 0 or more")


def verify_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `ChannelError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ChannelError.of(name, value, f"one of {', '.join(choices)}")


def verify_snr_db(value: object, name: str = "snr_db") -> None:
    """Raise `ChannelError` unless `value` is an SNR from -50 to 100 dB."""
    verify_number(name, value, MIN_SNR_DB, MAX_SNR_DB)


def verify_bandwidth_hz(value: object, name: str = "bandwidth_hz") -> None:
    """Raise `ChannelError` unless `value` is a bandwidth above 0 Hz and at most 1 THz."""
    verify_number(name, value, 0.0, 1e12, above=True)


def verify_capacity_bps(value: object, name: str = "capacity_bps") -> None:
    """Raise `ChannelError` unless `value` is a rate above 0 bit/s and at most 1e15 bit/s."""
    verify_number(name, value, 0.0, 1e15, above=True)


def verify_deadline_s(value: object, name: str = "deadline_s") -> None:
    """Raise `ChannelError` unless `value` is a time above 0 s and at most 1e7 s (four months)."""
    verify_number(name, value, 0.0, 1e7, above=True)


def verify_bits_per_param(value: object, name: str = "bits_per_param") -> None:
    """Raise `ChannelError` unless `value` is above 0 bit and at most 64 bit; entropy coding makes it fractional."""
    verify_number(name, value, 0.0, 64.0, above=True)


def verify_k_factor_db(value: object, name: str = "k_factor_db") -> None:
    """Raise `ChannelError` unless `value` is a Rician K factor from -50 to 50 dB."""
    verify_number(name, value, -50.0, 50.0)


def verify_doppler_hz(value: object, name: str = "doppler_hz") -> None:
    """Raise `ChannelError` unless `value` is a Doppler shift from 0 Hz to 1 GHz."""
    verify_number(name, value, 0.0, 1e9)


def verify_block_s(value: object, name: str = "block_s") -> None:
    """Raise `ChannelError` unless `value` is a block length above 0 s and at most 1e7 s."""
    verify_number(name, value, 0.0, 1e7, above=True)


def verify_outage_epsilon(value: object, name: str = "outage_epsilon") -> None:
    """Raise `ChannelError` unless `value` is a probability between 0 and 1, both left out."""
    verify_number(name, value, 0.0, 1.0, above=True, below=True)


def db_to_linear(value_db: float) -> float:
    r"""Return the power ratio $10^{x/10}$ of `value_db` decibels.

    Raises:
        ChannelError: Not finite, or beyond +-3000 dB.

    >>> db_to_linear(20.0)
    100.0
    """
    verify_number("value_db", value_db, -MAX_DB, MAX_DB)
    return float(10.0 ** (value_db / 10.0))


def linear_to_db(ratio: float) -> float:
    r"""Return $10 \log_{10} x$, the decibels of a power ratio.

    Raises:
        ChannelError: Not finite, or not above 0.

    >>> linear_to_db(100.0)
    20.0
    """
    verify_number("ratio", ratio, 0.0, math.inf, above=True)
    return 10.0 * math.log10(ratio)
