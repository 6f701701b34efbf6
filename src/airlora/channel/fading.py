r"""Distributions of the complex gain h of Eq. 4, and its course from block to block.

Every model has mean power $E|h|^2 = 1$, so that the mean SNR is a setting of its own.

| `channel.fading` | class | gain | power |
|---|---|---|---|
| `none` | `NoFading` | $h = 1$ | 1 |
| `rayleigh` | `RayleighFading` | $h = s$ | exponential |
| `rician` | `RicianFading` | $h = \sqrt{\tfrac{K}{K+1}} + \sqrt{\tfrac{1}{K+1}}\,s$ | noncentral chi-square |

Notation: s the scattered component, $s \sim \mathcal{CN}(0, 1)$; K the K factor, the power of the line of sight over
the scattered power.

To add a model, write a class with `power_quantile`, enter it in `FADING_MODELS`, and add its name and its parameters to
`airlora.channel.settings`.
"""

from __future__ import annotations

import cmath
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from annotated_types import Interval
from scipy.integrate import quad
from scipy.special import exp1, i0e, j0
from scipy.stats import ncx2

from airlora.channel.limits import db_to_linear, verify_choice, verify_number
from airlora.channel.settings import BLOCK_S, DOPPLER_HZ, K_FACTOR_DB, ChannelSettings, FadingKind
from airlora.errors import ChannelError, CheckpointError

__all__ = [
    "FADING_MODELS",
    "FadingModel",
    "FadingProcess",
    "NoFading",
    "RayleighFading",
    "RicianFading",
    "bits_per_symbol",
    "jakes_correlation",
    "make_fading",
]

LOG2_E = math.log2(math.e)


def bits_per_symbol(snr: float) -> float:
    """Return $log_2(1 + snr)$ of a linear SNR, accurate also for SNRs far below 1.

    Examples:
        >>> bits_per_symbol(3.0)
        2.0
    """
    return math.log1p(snr) * LOG2_E if snr < 1e-3 else math.log2(1.0 + snr)


class FadingModel(ABC):
    """Distribution of the complex gain h, with mean power 1."""

    @abstractmethod
    def power_quantile(self, probability: float) -> float:
        r"""Return the power $|h|^2$ that is not exceeded with a probability, $F^{-1}(p)$."""

    def gain(self, scattered: complex) -> complex:
        r"""Return the gain h of a standard complex normal variable s.

        The default maps the power of s through the quantile function, $|h|^2 = F^{-1}(1 - e^{-|s|^2})$, and keeps the
        phase of s.
        """
        probability = min(-math.expm1(-(abs(scattered) ** 2)), math.nextafter(1.0, 0.0))
        return cmath.rect(math.sqrt(self.power_quantile(probability)), cmath.phase(scattered))

    def mean_bits(self, mean_snr: float) -> float:
        r"""Return the mean spectral efficiency $E[\log_2(1 + |h|^2 \gamma)]$ at a linear mean SNR gamma, bit/s/Hz.

        The default integrates the quantile function numerically.
        """
        mean, _ = quad(lambda p: bits_per_symbol(self.power_quantile(p) * mean_snr), 0.0, 1.0, limit=200)
        return float(mean)


@dataclass(frozen=True)
class NoFading(FadingModel):
    """Constant gain h = 1."""

    def power_quantile(self, probability: float) -> float:  # noqa: ARG002
        """Return 1."""
        return 1.0

    def gain(self, scattered: complex) -> complex:  # noqa: ARG002
        """Return 1."""
        return complex(1.0)

    def mean_bits(self, mean_snr: float) -> float:
        r"""Return $\log_2(1 + \gamma)$."""
        return bits_per_symbol(mean_snr)


@dataclass(frozen=True)
class RayleighFading(FadingModel):
    """Scattered gain without a line of sight, h = s."""

    def power_quantile(self, probability: float) -> float:
        r"""Return $-\ln(1 - p)$."""
        return -math.log1p(-probability)

    def gain(self, scattered: complex) -> complex:
        """Return s."""
        return scattered

    def mean_bits(self, mean_snr: float) -> float:
        r"""Return $\log_2(e)\,e^{1/\gamma} E_1(1/\gamma)$ with the exponential integral E_1.

        Source: Alouini and Goldsmith, IEEE Trans. Veh. Technol. 48(4), 1999.
        """
        return LOG2_E * _scaled_exp1(1.0 / mean_snr)


@dataclass(frozen=True)
class RicianFading(FadingModel):
    """Scattered gain with a line of sight of phase 0.

    Args:
        k_factor_db: K factor, the power of the line of sight over the scattered power, -50 to 50 dB.

    Raises:
        ChannelError: The K factor is missing or out of range.

    Examples:
        >>> RicianFading(10.0).k_factor
        10.0
    """

    k_factor_db: float | None

    def __post_init__(self) -> None:
        verify_number("k_factor_db", self.k_factor_db, K_FACTOR_DB)

    @property
    def k_factor(self) -> float:
        """Linear K factor."""
        return db_to_linear(self.k_factor_db or 0.0)

    def power_quantile(self, probability: float) -> float:
        r"""Return the quantile by $2 (K + 1) |h|^2 \sim \chi'^2_2(2 K)$, the noncentral chi-square distribution."""
        k = self.k_factor
        return float(ncx2.ppf(probability, df=2, nc=2.0 * k)) / (2.0 * (k + 1.0))

    def gain(self, scattered: complex) -> complex:
        r"""Return $\sqrt{K / (K + 1)} + \sqrt{1 / (K + 1)}\,s$."""
        share = 1.0 / (self.k_factor + 1.0)
        return math.sqrt(1.0 - share) + math.sqrt(share) * scattered

    def mean_bits(self, mean_snr: float) -> float:
        """Return the mean by numerical integration over the amplitude."""
        return _rician_mean_bits(mean_snr, self.k_factor)


FADING_MODELS: Mapping[FadingKind, Callable[[ChannelSettings], FadingModel]] = {
    "none": lambda channel: NoFading(),
    "rayleigh": lambda channel: RayleighFading(),
    "rician": lambda channel: RicianFading(channel.k_factor_db),
}
"""Fading model by its name in `channel.fading`, made from the settings that hold its parameters."""


def make_fading(channel: ChannelSettings) -> FadingModel:
    """Return the fading model that the settings name.

    Raises:
        ChannelError: The model is unknown, or one of its parameters is missing or out of range.

    Examples:
        >>> make_fading(ChannelSettings(fading="rician", k_factor_db=3.0))
        RicianFading(k_factor_db=3.0)
    """
    verify_choice("fading", channel.fading, FADING_MODELS)
    return FADING_MODELS[channel.fading](channel)


def jakes_correlation(doppler_hz: float, block_s: float) -> float:
    r"""Return the correlation of the scattered component over one block.

    $$\rho = J_0(2 \pi f_d \tau)$$

    The correlation is negative for some $f_d \tau$ above 0.38.

    Args:
        doppler_hz: Largest Doppler shift f_d = v f_c / c, Hz, >= 0.
        block_s: Time tau between two gains, s, > 0.

    Returns:
        Correlation, from -0.403 to 1. It is 1 without Doppler shift.

    Raises:
        ChannelError: A value is out of range.

    Source: Clarke's spectrum, in Jakes, Microwave Mobile Communications, 1974, section 1.1.

    Examples:
        >>> jakes_correlation(0.0, 1.0)
        1.0
    """
    verify_number("doppler_hz", doppler_hz, DOPPLER_HZ)
    verify_number("block_s", block_s, BLOCK_S)
    return float(j0(2.0 * math.pi * doppler_hz * block_s))


class FadingProcess:
    r"""Complex gain per block whose scattered component is a first-order Gauss-Markov process.

    $$s_{t+1} = \rho\,s_t + \sqrt{1 - \rho^2}\,w_t, \quad w_t \sim \mathcal{CN}(0, 1)$$

    Notation: s_t the scattered component; rho `jakes_correlation`. The process starts in its stationary distribution.
    Its autocorrelation rho^k equals Clarke's J0(2 pi f_d k tau) at k = 1 and approximates it for larger k.

    The process takes one seed from `generator` and then draws from its own generator. Later draws from `generator` do
    not change it.

    Args:
        fading: Model that maps the scattered component to the gain.
        doppler_hz: Largest Doppler shift, Hz, >= 0. With 0 the gain keeps its first value.
        block_s: Length of a block, s, > 0.
        generator: Generator that the seed is drawn from.

    Raises:
        ChannelError: A value is out of range.

    Source: Wang and Chang, "On verifying the first-order Markovian assumption for a Rayleigh fading channel model",
    IEEE Trans. Veh. Technol. 45(2), 1996.
    """

    def __init__(
        self, fading: FadingModel, *, doppler_hz: float = 0.0, block_s: float = 1.0, generator: np.random.Generator
    ) -> None:
        self.fading = fading
        self.correlation = jakes_correlation(doppler_hz, block_s)
        self._generator = np.random.default_rng(generator.integers(2**63, size=2))
        self._scattered = self._draw()

    @property
    def gain(self) -> complex:
        """Gain h of the current block."""
        return self.fading.gain(self._scattered)

    def step(self) -> complex:
        """Move to the next block and return its gain h."""
        innovation = math.sqrt(1.0 - self.correlation**2)
        self._scattered = self.correlation * self._scattered + innovation * self._draw()
        return self.gain

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the process as values that JSON can hold."""
        return {
            "scattered": [self._scattered.real, self._scattered.imag],
            "generator": self._generator.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict`. The process then continues bit for bit.

        Raises:
            CheckpointError: The state is damaged. The process is unchanged.
        """
        generator = np.random.default_rng(0)
        try:
            real, imaginary = state["scattered"]
            verify_number("scattered", real, Interval())
            verify_number("scattered", imaginary, Interval())
            generator.bit_generator.state = state["generator"]
        except (ChannelError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise CheckpointError(f"state of the fading process is damaged: {error!r}") from error
        self._scattered = complex(real, imaginary)
        self._generator = generator

    def _draw(self) -> complex:
        real, imaginary = self._generator.standard_normal(2) * math.sqrt(0.5)
        return complex(real, imaginary)


def _scaled_exp1(x: float) -> float:
    r"""Return $e^x E_1(x)$ for x > 0 without overflow.

    Above 50, 20 terms of the asymptotic series $\sum_k (-1)^k k! / x^{k+1}$ are exact to the last digit.
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
    """Return E[log2(1 + |h|^2 mean_snr)] for Rician fading.

    The integral is over the amplitude a = sqrt(K + 1) |h|, with density 2 a exp(-(a - sqrt K)^2) i0e(2 a sqrt K). For
    every K the density is about 1 wide around sqrt K, and below 1e-30 at a distance of 9. The result is cached because
    a link asks for the same mean SNR at every block.
    """
    centre = math.sqrt(k)

    def integrand(a: float) -> float:
        density = 2.0 * a * math.exp(-((a - centre) ** 2)) * float(i0e(2.0 * a * centre))
        return density * bits_per_symbol(a * a * mean_snr / (k + 1.0))

    mean, _ = quad(integrand, max(0.0, centre - 9.0), centre + 9.0, epsabs=0.0, epsrel=1e-10, limit=200)
    return float(mean)
