import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.channel import average_power, equalise, scale_to_power, snr, transmit, verify_power
from airlora.errors import ChannelError


def generator(seed=0):
    return np.random.default_rng(seed)


def test_without_noise_the_codeword_only_turns_and_scales():
    received = transmit([1, 1j, -2], gain=2j, noise_variance=0.0, generator=generator())
    np.testing.assert_array_equal(received, [2j, -2, -4j])
    assert received.dtype == np.complex128


def test_noise_is_circular_with_the_variance_asked_for():
    n, variance = 200_000, 3.0
    noise = transmit(np.zeros(n), gain=1.0, noise_variance=variance, generator=generator())
    error = 5 * variance / math.sqrt(n)
    assert abs(noise.mean()) < error
    assert np.mean(np.abs(noise) ** 2) == pytest.approx(variance, abs=error)
    assert noise.real.var() == pytest.approx(variance / 2, abs=error)
    assert noise.imag.var() == pytest.approx(variance / 2, abs=error)
    assert abs(np.mean(noise**2)) < error


def test_noise_repeats_with_the_seed_and_only_with_it():
    def send(seed):
        return transmit(np.ones(8), gain=1.0, noise_variance=1.0, generator=generator(seed))

    np.testing.assert_array_equal(send(1), send(1))
    assert not np.array_equal(send(1), send(2))


@given(st.complex_numbers(min_magnitude=1e-3, max_magnitude=1e3))
def test_equalising_undoes_the_gain(gain):
    codeword = np.array([1 + 2j, -3j, 0.5])
    received = transmit(codeword, gain=gain, noise_variance=0.0, generator=generator())
    np.testing.assert_allclose(equalise(received, gain), codeword, rtol=1e-12)


def test_equalised_noise_has_the_snr_of_the_link():
    gain, power, variance = 0.6 - 0.8j, 4.0, 0.5
    codeword = scale_to_power(np.where(generator(1).random(100_000) < 0.5, 1, -1), power)
    received = transmit(codeword, gain=gain, noise_variance=variance, generator=generator(2))
    error = equalise(received, gain) - codeword
    assert power / average_power(error) == pytest.approx(snr(gain, power, variance), rel=0.02)
    assert snr(gain, power, variance) == pytest.approx(8.0)


@given(st.lists(st.complex_numbers(min_magnitude=1e-3, max_magnitude=1e3), min_size=1), st.floats(1e-3, 1e3))
def test_scaling_meets_the_power_and_passes_the_check(codeword, power):
    scaled = scale_to_power(codeword, power)
    assert average_power(scaled) == pytest.approx(power, rel=1e-9)
    verify_power(scaled, power)
    np.testing.assert_allclose(scale_to_power(scaled, power), scaled, rtol=1e-9)


def test_power_constraint_is_one_sided():
    verify_power([1, 1j], 2.0)
    with pytest.raises(ChannelError, match=r"mean power of the codeword = 4\.0: allowed is 3\.9 at most"):
        verify_power([2, 2j], 3.9)


@pytest.mark.parametrize("codeword", [[], [[1, 2]], 1.0])
def test_shape_of_a_codeword(codeword):
    for call in (average_power, lambda c: scale_to_power(c, 1.0), lambda c: verify_power(c, 1.0)):
        with pytest.raises(ChannelError, match="shape of codeword"):
            call(codeword)
    with pytest.raises(ChannelError, match="shape of received"):
        equalise(codeword, 1.0)


def test_symbols_that_are_not_finite_are_counted():
    with pytest.raises(ChannelError, match="codeword: 2 of 3 symbols are not finite"):
        transmit([math.nan, 1, math.inf], gain=1.0, noise_variance=1.0, generator=generator())


@pytest.mark.parametrize("gain", [math.nan, math.inf, complex(0, math.inf)])
def test_gain_has_to_be_finite(gain):
    with pytest.raises(ChannelError, match="gain"):
        transmit([1], gain=gain, noise_variance=1.0, generator=generator())
    with pytest.raises(ChannelError, match="gain"):
        snr(gain, 1.0, 1.0)


def test_nothing_can_be_equalised_through_a_gain_of_zero():
    with pytest.raises(ChannelError, match="gain = 0"):
        equalise([1], 0)


def test_a_codeword_without_power_cannot_be_scaled():
    with pytest.raises(ChannelError, match="no power"):
        scale_to_power([0, 0], 1.0)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_noise_variance_of_a_transmission(value):
    with pytest.raises(ChannelError, match="noise_variance"):
        transmit([1], gain=1.0, noise_variance=value, generator=generator())


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_powers_have_to_be_above_zero(value):
    with pytest.raises(ChannelError, match="noise_variance"):
        snr(1.0, 1.0, value)
    for call in (lambda p: snr(1.0, p, 1.0), lambda p: scale_to_power([1], p), lambda p: verify_power([1], p)):
        with pytest.raises(ChannelError, match="power"):
            call(value)
