import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.channel import (
    average_power,
    db_to_linear,
    demodulate_qpsk,
    equalise,
    modulate_qpsk,
    qpsk_bit_error_rate,
    scale_to_power,
    transmit,
)
from airlora.errors import ChannelError


def to_bits(data):
    return np.unpackbits(np.frombuffer(data, dtype=np.uint8))


@given(st.binary(min_size=1, max_size=64))
def test_bytes_come_back_from_their_symbols(data):
    symbols = modulate_qpsk(to_bits(data))
    assert len(symbols) == 4 * len(data)
    assert average_power(symbols) == pytest.approx(1.0)
    assert np.packbits(demodulate_qpsk(symbols)).tobytes() == data


def test_labels_are_gray():
    labels = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])
    points = modulate_qpsk(labels.ravel())
    for a in range(4):
        for b in range(4):
            differing = int(np.sum(labels[a] != labels[b]))
            assert abs(points[a] - points[b]) == pytest.approx(math.sqrt(2 * differing))


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 5.0, 8.0])
def test_bytes_over_the_link_err_as_often_as_theory_says(snr_db):
    """Eq. 4 end to end: the errors of n bits are binomial, so five standard deviations bound them."""
    rng = np.random.default_rng(int(snr_db) + 100)
    data = rng.bytes(50_000)
    gain, power = 0.3 * np.exp(2j), 2.5
    noise_variance = abs(gain) ** 2 * power / db_to_linear(snr_db)
    codeword = scale_to_power(modulate_qpsk(to_bits(data)), power)
    received = transmit(codeword, gain=gain, noise_variance=noise_variance, generator=rng)
    errors = np.mean(demodulate_qpsk(equalise(received, gain)) != to_bits(data))
    rate = qpsk_bit_error_rate(db_to_linear(snr_db))
    assert errors == pytest.approx(rate, abs=5 * math.sqrt(rate * (1 - rate) / (8 * len(data))))


def test_bytes_survive_a_good_link():
    rng = np.random.default_rng(3)
    data = b"rank-one components over the air"
    received = transmit(modulate_qpsk(to_bits(data)), gain=-1j, noise_variance=0.01, generator=rng)
    assert np.packbits(demodulate_qpsk(equalise(received, -1j))).tobytes() == data


def test_error_rate_is_the_gaussian_tail():
    assert qpsk_bit_error_rate(1.0) == pytest.approx(0.15865525393145707, rel=1e-12)
    assert qpsk_bit_error_rate(4.0) == pytest.approx(0.02275013194817921, rel=1e-12)
    rates = [qpsk_bit_error_rate(value) for value in (0.0, 0.1, 1.0, 10.0, 100.0)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("bits", [[], [1], [1, 0, 1], [[0, 1]]])
def test_bits_come_in_pairs(bits):
    with pytest.raises(ChannelError, match="shape of bits"):
        modulate_qpsk(bits)


@pytest.mark.parametrize("bits", [[0, 2], [-1, 1], [0.5, 0.0], [math.nan, 0.0]])
def test_bits_are_zeros_and_ones(bits):
    with pytest.raises(ChannelError, match="0 or 1"):
        modulate_qpsk(bits)


@pytest.mark.parametrize("snr", [-1.0, math.nan, math.inf])
def test_error_rate_needs_an_snr(snr):
    with pytest.raises(ChannelError, match="snr"):
        qpsk_bit_error_rate(snr)
