r"""Data rate of a link (Eq. 5) under one of three rate models.

| `channel.rate` | channel knowledge | rate |
|---|---|---|
| `shannon` | h of this block, at both ends | $W \log_2(1 + |h|^2 \gamma)$ |
| `ergodic` | h at the receiver; the codeword spans many fades | $E_h[W \log_2(1 + |h|^2 \gamma)]$, Eq. 5 as printed |
| `outage` | h at the receiver; the codeword spans one fade | $W \log_2(1 + F^{-1}(\epsilon) \gamma)$ |

Notation: W bandwidth_hz; gamma the linear mean SNR; F the distribution function of |h|^2, whose mean is 1.

To add a model, enter it in `RATE_MODELS`, and add its name and its parameters to `airlora.channel.settings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from airlora.channel.fading import FadingModel, bits_per_symbol, make_fading
from airlora.channel.limits import db_to_linear, verify_choice, verify_number
from airlora.channel.settings import BANDWIDTH_HZ, OUTAGE_EPSILON, SNR_DB, ChannelSettings, RateModel

__all__ = ["RATE_MODELS", "capacity_bps", "ergodic_bps", "outage_bps", "shannon_bps"]


def capacity_bps(
    channel: ChannelSettings, *, mean_snr_db: float, bandwidth_hz: float, snr_db: float | None = None
) -> float:
    """Return the rate of a link under the rate model of the settings, bit/s (Eq. 5).

    Args:
        channel: Settings that name the rate model, the fading model and their parameters.
        mean_snr_db: SNR at mean gain, -50 to 100 dB.
        bandwidth_hz: Bandwidth W, Hz, > 0.
        snr_db: SNR of the block, dB, for models that depend on it. None takes the mean SNR.

    Raises:
        ChannelError: A model is unknown, or a value is out of range.

    Examples:
        >>> capacity_bps(ChannelSettings(rate="shannon"), mean_snr_db=0.0, bandwidth_hz=1e6)
        1000000.0
    """
    verify_choice("rate", channel.rate, RATE_MODELS)
    return RATE_MODELS[channel.rate](channel, mean_snr_db, mean_snr_db if snr_db is None else snr_db, bandwidth_hz)


def shannon_bps(snr_db: float, bandwidth_hz: float) -> float:
    r"""Return the capacity at one SNR, $W \log_2(1 + \mathrm{SNR})$, bit/s (inner term of Eq. 5).

    Args:
        snr_db: SNR of the block, -50 to 100 dB.
        bandwidth_hz: Bandwidth W, Hz, > 0.

    Raises:
        ChannelError: A value is out of range.

    Examples:
        >>> shannon_bps(0.0, 100.0)
        100.0
    """
    verify_number("snr_db", snr_db, SNR_DB)
    verify_number("bandwidth_hz", bandwidth_hz, BANDWIDTH_HZ)
    return bandwidth_hz * bits_per_symbol(db_to_linear(snr_db))


def ergodic_bps(mean_snr_db: float, bandwidth_hz: float, fading: FadingModel) -> float:
    r"""Return the capacity averaged over the fading, bit/s (Eq. 5).

    $$C = E_h[W \log_2(1 + |h|^2 \gamma)]$$

    Notation: gamma the linear mean SNR.

    Args:
        mean_snr_db: SNR at mean gain, -50 to 100 dB.
        bandwidth_hz: Bandwidth W, Hz, > 0.
        fading: Distribution of h. Without fading the result is `shannon_bps`.

    Raises:
        ChannelError: A value is out of range.

    Source: AirLLM Eq. 5.
    """
    verify_number("mean_snr_db", mean_snr_db, SNR_DB)
    verify_number("bandwidth_hz", bandwidth_hz, BANDWIDTH_HZ)
    return bandwidth_hz * fading.mean_bits(db_to_linear(mean_snr_db))


def outage_bps(mean_snr_db: float, bandwidth_hz: float, fading: FadingModel, epsilon: float) -> float:
    r"""Return the rate that fails with probability epsilon, bit/s.

    $$C_\epsilon = W \log_2(1 + F^{-1}(\epsilon)\,\gamma)$$

    Notation: gamma the linear mean SNR; F the distribution function of |h|^2.

    Args:
        mean_snr_db: SNR at mean gain, -50 to 100 dB.
        bandwidth_hz: Bandwidth W, Hz, > 0.
        fading: Distribution of h. Without fading the result is `shannon_bps`.
        epsilon: Probability of an outage, above 0 and below 1.

    Raises:
        ChannelError: A value is out of range.

    Source: Tse and Viswanath, Fundamentals of Wireless Communication, 2005, section 5.4.1.
    """
    verify_number("mean_snr_db", mean_snr_db, SNR_DB)
    verify_number("bandwidth_hz", bandwidth_hz, BANDWIDTH_HZ)
    verify_number("outage_epsilon", epsilon, OUTAGE_EPSILON)
    return bandwidth_hz * bits_per_symbol(fading.power_quantile(epsilon) * db_to_linear(mean_snr_db))


RATE_MODELS: Mapping[RateModel, Callable[[ChannelSettings, float, float, float], float]] = {
    "shannon": lambda channel, mean_snr_db, snr_db, bandwidth_hz: shannon_bps(snr_db, bandwidth_hz),
    "ergodic": lambda channel, mean_snr_db, snr_db, bandwidth_hz: ergodic_bps(
        mean_snr_db, bandwidth_hz, make_fading(channel)
    ),
    "outage": lambda channel, mean_snr_db, snr_db, bandwidth_hz: outage_bps(
        mean_snr_db, bandwidth_hz, make_fading(channel), channel.outage_epsilon
    ),
}
"""Rate model by its name in `channel.rate`: a function of settings, mean SNR (dB), block SNR (dB), bandwidth (Hz)."""
