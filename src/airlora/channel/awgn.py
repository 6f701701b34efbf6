r"""Symbol-level transfer: a codeword through a block of fading and noise (Eq. 4).

$$y = h\,c + n, \quad n \sim \mathcal{CN}(0, \sigma^2 I), \quad \frac{1}{b}\sum_i |c_i|^2 \le P$$

The functions take complex symbols of any modulation. `airlora.channel.qpsk` is one modulation.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from airlora.channel.limits import NON_NEGATIVE, POSITIVE, verify_number
from airlora.errors import ChannelError

__all__ = ["ComplexArray", "average_power", "equalise", "scale_to_power", "snr", "transmit", "verify_power"]

ComplexArray = npt.NDArray[np.complex128]

POWER_TOLERANCE = 1e-9
"""Relative excess over the power constraint that `verify_power` accepts, for rounding errors."""


def transmit(
    codeword: npt.ArrayLike, *, gain: complex, noise_variance: float, generator: np.random.Generator
) -> ComplexArray:
    r"""Return the received symbols of a codeword (Eq. 4).

    $$y = h\,c + n, \quad n \sim \mathcal{CN}(0, \sigma^2 I)$$

    Notation: c codeword; h gain; sigma^2 noise_variance. The real and the imaginary component of n each have variance
    sigma^2 / 2.

    Args:
        codeword: Symbols, complex [b], b >= 1.
        gain: Complex gain, constant over the block.
        noise_variance: Noise power per symbol, >= 0, in the unit of the symbols' power.
        generator: Generator of the noise.

    Returns:
        Received symbols, complex128 [b].

    Raises:
        ChannelError: The codeword is empty, has more than one dimension or a value that is not finite; the gain is not
            finite; the variance is negative.

    Source: AirLLM Eq. 4.
    """
    symbols = _verify_symbols("codeword", codeword)
    _verify_gain(gain)
    verify_number("noise_variance", noise_variance, NON_NEGATIVE)
    noise = generator.standard_normal((2, symbols.size)) * math.sqrt(noise_variance / 2.0)
    received: ComplexArray = gain * symbols + noise[0] + 1j * noise[1]
    return received


def equalise(received: npt.ArrayLike, gain: complex) -> ComplexArray:
    r"""Return the receiver's estimate $y / h$ of the codeword, with perfect knowledge of the gain.

    Args:
        received: Received symbols, complex [b].
        gain: Complex gain h of the block, not 0.

    Raises:
        ChannelError: The gain is 0 or not finite, or the symbols are malformed.

    Examples:
        >>> equalise([2j, -4j], gain=2j)
        array([ 1.+0.j, -2.+0.j])
    """
    symbols = _verify_symbols("received", received)
    _verify_gain(gain)
    if gain == 0:
        raise ChannelError.of("gain", gain, "a complex number other than 0")
    estimate: ComplexArray = symbols / gain
    return estimate


def snr(gain: complex, power: float, noise_variance: float) -> float:
    r"""Return the linear signal-to-noise ratio at the receiver.

    $$\mathrm{SNR} = \frac{|h|^2 P}{\sigma^2}$$

    Args:
        gain: Complex gain h.
        power: Mean power P of a symbol, > 0.
        noise_variance: Noise power sigma^2 per symbol, > 0.

    Raises:
        ChannelError: A value is not finite, or a power is not above 0.

    Source: AirLLM, below Eq. 5.

    Examples:
        >>> snr(3 + 4j, power=2.0, noise_variance=10.0)
        5.0
    """
    _verify_gain(gain)
    verify_number("power", power, POSITIVE)
    verify_number("noise_variance", noise_variance, POSITIVE)
    return abs(gain) ** 2 * power / noise_variance


def average_power(codeword: npt.ArrayLike) -> float:
    r"""Return the mean power of a codeword, $\frac{1}{b}\sum_i |c_i|^2$.

    Args:
        codeword: Symbols, complex [b].

    Raises:
        ChannelError: The codeword is malformed.

    Examples:
        >>> average_power([1 + 1j, 0])
        1.0
    """
    symbols = _verify_symbols("codeword", codeword)
    return float(np.vdot(symbols, symbols).real / symbols.size)


def verify_power(codeword: npt.ArrayLike, power: float) -> None:
    """Raise `ChannelError` if the mean power of a codeword exceeds P (the constraint above Eq. 4).

    Args:
        codeword: Symbols, complex [b].
        power: Largest mean power P, > 0. The check accepts a relative excess of 1e-9.
    """
    verify_number("power", power, POSITIVE)
    mean = average_power(codeword)
    if mean > power * (1.0 + POWER_TOLERANCE):
        raise ChannelError.of("mean power of the codeword", mean, f"{power:g} at most")


def scale_to_power(codeword: npt.ArrayLike, power: float) -> ComplexArray:
    """Return the codeword scaled to mean power P, complex128 [b].

    Args:
        codeword: Symbols, complex [b], not all 0.
        power: Mean power P of the result, > 0.

    Raises:
        ChannelError: P is not above 0, or every symbol is 0.

    Examples:
        >>> scale_to_power([1, -1], 4.0)
        array([ 2.+0.j, -2.+0.j])
    """
    verify_number("power", power, POSITIVE)
    symbols = _verify_symbols("codeword", codeword)
    mean = average_power(symbols)
    if mean == 0.0:
        raise ChannelError("the codeword has no power: at least one symbol other than 0 is needed")
    scaled: ComplexArray = symbols * math.sqrt(power / mean)
    return scaled


def _verify_gain(gain: complex) -> None:
    if not np.isfinite(gain):
        raise ChannelError.of("gain", gain, "a finite complex number")


def _verify_symbols(name: str, value: npt.ArrayLike) -> ComplexArray:
    symbols = np.asarray(value, dtype=np.complex128)
    if symbols.ndim != 1 or symbols.size == 0:
        raise ChannelError.of(f"shape of {name}", symbols.shape, "one dimension, 1 or more symbols")
    if not np.isfinite(symbols).all():
        raise ChannelError(f"{name}: {int((~np.isfinite(symbols)).sum())} of {symbols.size} symbols are not finite")
    return symbols
