r"""Uncoded QPSK with Gray labels, the simplest modulation for Eq. 4.

| bits | symbol |
|---|---|
| 0 0 | (+1 + j) / sqrt 2 |
| 0 1 | (+1 - j) / sqrt 2 |
| 1 1 | (-1 - j) / sqrt 2 |
| 1 0 | (-1 + j) / sqrt 2 |

Neighbouring symbols differ in one bit. The first bit is the sign of the real component. The second bit is the sign of
the imaginary component.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import erfc

from airlora.channel.awgn import ComplexArray
from airlora.channel.limits import NON_NEGATIVE, verify_number
from airlora.errors import ChannelError

__all__ = ["demodulate_qpsk", "modulate_qpsk", "qpsk_bit_error_rate"]


def modulate_qpsk(bits: npt.ArrayLike) -> ComplexArray:
    """Return the symbols of a sequence of bits, two bits per symbol, with power 1, complex128 [b].

    Args:
        bits: Zeros and ones, [2 b]. `numpy.unpackbits` converts bytes to bits.

    Raises:
        ChannelError: The number of bits is zero or odd, or a value is not 0 or 1.

    Examples:
        >>> (modulate_qpsk([0, 0, 1, 0]) * 2**0.5).round(6)
        array([ 1.+1.j, -1.+1.j])
    """
    array = np.asarray(bits)
    if array.ndim != 1 or array.size == 0 or array.size % 2:
        raise ChannelError.of("shape of bits", array.shape, "one dimension, an even number of bits, 2 or more")
    if not np.isin(array, (0, 1)).all():
        raise ChannelError("bits: every value has to be 0 or 1")
    axes = (1.0 - 2.0 * array.reshape(-1, 2)) / math.sqrt(2.0)
    symbols: ComplexArray = axes[:, 0] + 1j * axes[:, 1]
    return symbols


def demodulate_qpsk(symbols: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Return the bits of the nearest QPSK symbols, uint8 [2 b].

    Args:
        symbols: Equalised symbols, complex [b], at any power.

    Examples:
        >>> demodulate_qpsk([0.3 + 2j, -1 + 0.1j])
        array([0, 0, 1, 0], dtype=uint8)
    """
    received = np.asarray(symbols, dtype=np.complex128)
    return np.stack([received.real < 0, received.imag < 0], axis=-1).astype(np.uint8).ravel()


def qpsk_bit_error_rate(snr: float) -> float:
    r"""Return the probability of a bit error.

    $$Q(\sqrt{\mathrm{SNR}}) = \tfrac{1}{2}\,\mathrm{erfc}\sqrt{\mathrm{SNR} / 2}$$

    Each axis carries half the power of a symbol and half the noise, hence no factor 2 under the root.

    Args:
        snr: Linear SNR per symbol, |h|^2 P / sigma^2, >= 0.

    Raises:
        ChannelError: The SNR is negative or not finite.

    Source: Proakis and Salehi, Digital Communications, 5th ed., section 4.3.

    Examples:
        >>> qpsk_bit_error_rate(0.0)
        0.5
    """
    verify_number("snr", snr, NON_NEGATIVE)
    return float(0.5 * erfc(math.sqrt(snr / 2.0)))
