r"""How many bits a second a link carries, under three readings of Eq. 5.

| model | knows of the gain | rate |
|---|---|---|
| `shannon` | h of this block, at both ends | $W \log_2(1 + |h|^2 \gamma)$ |
| `ergodic` | h at the receiver; the codeword spans many fades | $E_h[W \log_2(1 + |h|^2 \gamma)]$, Eq. 5 as written |
| `outage` | h at the receiver; the codeword meets one fade | $W \log_2(1 + F^{-1}(\epsilon) \gamma)$ |

Notation: W bandwidth_hz; gamma the mean SNR, linear; F the distribution of |h|^2, whose mean is 1.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, get_args

from scipy.integrate import quad
from scipy.special import exp1, i0e
from scipy.stats import ncx2

from airlora.channel.fading import FadingModel
from airlora.channel.limits import (
    db_to_linear,
    verify_bandwidth_hz,
    verify_choice,
    verify_outage_epsilon,
    verify_snr_db,
)

__all__ = ["RateModel", "capacity_bps", "ergodic_bps", "outage_bps", "shannon_bps"]

RateModel = Literal["shannon", "ergodic", "outage"]

LOG2_E = math.log2(math.e)


def capacity_bps(
    model: RateModel,
    *,
    mean_snr_db: float,
    bandwidth_hz: float,
    snr_db: float | None = None,
    fading: FadingModel | None = None,
    outage_epsilon: float = 0.1,
) -> float:
    """Return the rate of the link under one of the three models, bit/s.

    Args:
        model: "shannon", "ergodic" or "outage".
        mean_snr_db: SNR at mean gain, dB.
        bandwidth_hz: W, Hz.
        snr_db: SNR of this block, dB, which "shannon" reads; the default is the mean.
        fading: Distribution of the gain, which "ergodic" and "outage" read; the default is none.
        outage_epsilon: Share of fades that lose the codeword, which "outage" reads.

    Raises:
        ChannelError: An unknown model, or a value outside its limits.

    >>> capacity_bps("shannon", mean_snr_db=0.0, bandwidth_hz=1e6)
    1000000.0
    """
    verify_choice("rate", model, get_args(RateModel))
    law = FadingModel() if fading is None else fading
    if model == "shannon":
        return shannon_bps(mean_snr_db if snr_db is None else snr_db, bandwidth_hz)
    if model == "ergodic":
        return ergodic_bps(mean_snr_db, bandwidth_hz, law)
    return outage_bps(mean_snr_db, bandwidth_hz, law, outage_epsilon)


def shannon_bps(snr_db: float, bandwidth_hz: float) -> float:
    r"""Return the capacity at one SNR, $W \log_2(1 + \mathrm{SNR})$, bit/s (the inside of Eq. 5).

    Args:
        snr_db: SNR of the block, dB, -50 to 100.
        bandwidth_hz: W, Hz, above 0.

    Raises:
        ChannelError: A value is outside its limits.

    >>> shannon_bps(0.0, 100.0)
    100.0
    """
    verify_snr_db(snr_db)
    verify_bandwidth_hz(bandwidth_hz)
    return bandwidth_hz * _bits_per_symbol(db_to_linear(snr_db))


def ergodic_bps(mean_snr_db: float, bandwidth_hz: float, fading: FadingModel) -> float:
    r"""Return the capacity averaged over the fades, bit/s (Eq. 5).

    $$C = E_h[W \log_2(1 + |h|^2 \gamma)], \qquad C_{Rayleigh} = W \log_2(e)\, e^{1/\gamma} E_1(1/\gamma)$$

    Notation: gamma mean_snr_db, linear; E_1 the exponential integral. Rician fading is integrated numerically.

    Args:
        mean_snr_db: SNR at mean gain, dB, -50 to 100.
        bandwidth_hz: W, Hz, above 0.
        fading: Distribution of h; without fading this is `shannon_bps`.

    Raises:
        ChannelError: A value is outside its limits.

    Source: AirLLM Eq. 5; the closed form is Alouini and Goldsmith, IEEE Trans. Veh. Technol. 48(4), 1999.
    """
    verify_snr_db(mean_snr_db, "mean_snr_db")
    verify_bandwidth_hz(bandwidth_hz)
    mean_snr = db_to_linear(mean_snr_db)
    if fading.kind == "none":
        return bandwidth_hz * _bits_per_symbol(mean_snr)
    if fading.kind == "rayleigh":
        return bandwidth_hz * LOG2_E * _scaled_exp1(1.0 / mean_snr)
    return bandwidth_hz * _rician_mean_bits(mean_snr, fading.k_factor)


def outage_bps(mean_snr_db: float, bandwidth_hz: float, fading: FadingModel, epsilon: float) -> float:
    r"""Return the rate that all but a share epsilon of the fades carry, bit/s.

    $$C_\epsilon = W \log_2(1 + F^{-1}(\epsilon)\,\gamma), \qquad F^{-1}_{Rayleigh}(\epsilon) = -\ln(1 - \epsilon)$$

    Notation: gamma mean_snr_db, linear; F the distribution of |h|^2. For Rician fading 2 (K + 1) |h|^2 is noncentral
    chi-square with 2 degrees of freedom and noncentrality 2 K.

    Args:
        mean_snr_db: SNR at mean gain, dB, -50 to 100.
        bandwidth_hz: W, Hz, above 0.
        fading: Distribution of h; without fading this is `shannon_bps`.
        epsilon: Probability of an outage, between 0 and 1.

    Raises:
        ChannelError: A value is outside its limits.

    Source: Tse and Viswanath, Fundamentals of Wireless Communication, 2005, section 5.4.1.
    """
    verify_snr_db(mean_snr_db, "mean_snr_db")
    verify_bandwidth_hz(bandwidth_hz)
    verify_outage_epsilon(epsilon)
    return bandwidth_hz * _bits_per_symbol(_power_quantile(fading, epsilon) * db_to_linear(mean_snr_db))


def _bits_per_symbol(snr: float) -> float:
    """Return log2(1 + snr), exact where snr is far below 1."""
    return math.log1p(snr) * LOG2_E if snr < 1e-3 else math.log2(1.0 + snr)


def _power_quantile(fading: FadingModel, probability: float) -> float:
    """Return F^{-1} of |h|^2."""
    if fading.kind == "none":
        return 1.0
    if fading.kind == "rayleigh":
        return -math.log1p(-probability)
    k = fading.k_factor
    return float(ncx2.ppf(probability, df=2, nc=2.0 * k)) / (2.0 * (k + 1.0))


def _scaled_exp1(x: float) -> float:
    r"""Return $e^x E_1(x)$ for x > 0, which stays finite where e^x does not.

    Above 50 the asymptotic series $\sum_k (-1)^k k! / x^{k+1}$ is exact to the last digit after 20 terms.
    """
    if x <= 50.0:
        return math.exp(x) * float(exp1(x))
    total, term = 0.0, 1.0 / x
    for k in range(1, 21):
        total += term
        term *= -k / x
    return total


@functools.lru_cache(maxsize=1024)
def _rician_mean_bits(mean_snr: float, k: float) -> float:
    """Return E[log2(1 + |h|^2 mean_snr)] under the noncentral chi-square law of |h|^2.

    Integrated over the amplitude a = sqrt(K + 1) |h|: its density 2 a exp(-(a - sqrt K)^2) i0e(2 a sqrt K) is about 1
    wide around sqrt K whatever K is, and below 1e-30 beyond 9 from it. Cached, as a link asks for the same mean SNR at
    every block.
    """
    centre = math.sqrt(k)

    def integrand(a: float) -> float:
        density = 2.0 * a * math.exp(-((a - centre) ** 2)) * float(i0e(2.0 * a * centre))
        return density * _bits_per_symbol(a * a * mean_snr / (k + 1.0))

    mean, _ = quad(integrand, max(0.0, centre - 9.0), centre + 9.0, epsabs=0.0, epsrel=1e-10, limit=200)
    return float(mean)
