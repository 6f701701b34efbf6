import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import ncx2

from airlora.channel import (
    ChannelSettings,
    NoFading,
    RateModel,
    RayleighFading,
    RicianFading,
    capacity_bps,
    ergodic_bps,
    outage_bps,
    shannon_bps,
)
from airlora.channel.rates import RATE_MODELS
from airlora.errors import ChannelError

NONE, RAYLEIGH = NoFading(), RayleighFading()
SNRS_DB = [-50.0, -28.0, -20.0, -16.99, -5.0, 0.0, 5.0, 15.0, 40.0, 100.0]


MODELS = [NONE, RAYLEIGH, RicianFading(-20.0), RicianFading(0.0), RicianFading(10.0), RicianFading(50.0)]
FADINGS = [
    {"fading": "none"},
    {"fading": "rayleigh"},
    *({"fading": "rician", "k_factor_db": k} for k in (-20.0, 0.0, 10.0)),
]


def powers(fading, n, seed=0):
    rng = np.random.default_rng(seed)
    scattered = (rng.standard_normal(n) + 1j * rng.standard_normal(n)) * math.sqrt(0.5)
    return np.abs(fading.gain(scattered)) ** 2 * np.ones(n)


@pytest.mark.parametrize(
    ("snr_db", "bits"), [(0.0, 1.0), (10 * math.log10(3), 2.0), (10 * math.log10(1023), 10.0), (-50.0, 1.4426878e-5)]
)
def test_the_shannon_rate_by_hand(snr_db, bits):
    assert shannon_bps(snr_db, 1e6) == pytest.approx(1e6 * bits, rel=1e-7)


def test_ergodic_rayleigh_by_table():
    """At 0 dB log2(e) e E1(1), with E1(1) = 0.2193839343955203 (Abramowitz and Stegun, table 5.1)."""
    assert ergodic_bps(0.0, 1.0, RAYLEIGH) == pytest.approx(math.log2(math.e) * math.e * 0.2193839343955203, rel=1e-13)


@pytest.mark.parametrize("fading", MODELS)
@pytest.mark.parametrize("snr_db", [-10.0, 5.0, 30.0])
def test_ergodic_agrees_with_monte_carlo(fading, snr_db):
    n = 100_000
    bits = np.log2(1 + powers(fading, n) * 10 ** (snr_db / 10))
    error = 5 * bits.std() / math.sqrt(n) + 1e-12
    assert ergodic_bps(snr_db, 1.0, fading) == pytest.approx(bits.mean(), abs=error)


@pytest.mark.parametrize("k_factor_db", [-10.0, 0.0, 10.0])
@pytest.mark.parametrize("snr_db", [-50.0, 0.0, 60.0])
def test_ergodic_rician_agrees_with_the_chi_square_density(k_factor_db, snr_db):
    k, snr = 10 ** (k_factor_db / 10), 10 ** (snr_db / 10)

    def integrand(x):
        return ncx2.pdf(x, 2, 2 * k) * math.log1p(x * snr / (2 * (k + 1))) * math.log2(math.e)

    mean = sum(quad(integrand, low, low + 10, epsrel=1e-10)[0] for low in range(0, 120, 10))
    assert ergodic_bps(snr_db, 1.0, RicianFading(k_factor_db)) == pytest.approx(mean, rel=1e-8)


@pytest.mark.parametrize("snr_db", SNRS_DB)
def test_ergodic_rayleigh_agrees_with_its_integral(snr_db):
    """The closed form and the asymptotic series below -17 dB, against the quadrature at a K of nearly 0."""
    assert ergodic_bps(snr_db, 1.0, RAYLEIGH) == pytest.approx(ergodic_bps(snr_db, 1.0, RicianFading(-50.0)), rel=2e-5)


@pytest.mark.parametrize("snr_db", [-5.0, -13.0, -14.0, -16.9, -17.1, -20.0, -35.0, -50.0])
def test_ergodic_rayleigh_keeps_its_digits_at_low_snr(snr_db):
    """With x = 1 / snr, e^x E1(x) is the integral of e^-t / (x + t), which needs neither factor."""
    x = 10 ** (-snr_db / 10)
    integral, _ = quad(lambda t: math.exp(-t) / (x + t), 0, 60, epsabs=0.0, epsrel=1e-13, limit=200)
    assert ergodic_bps(snr_db, 1.0, RAYLEIGH) == pytest.approx(integral * math.log2(math.e), rel=1e-12)


def test_ergodic_rayleigh_is_smooth_where_the_series_takes_over():
    at = -10 * math.log10(50.0)
    below, above = (ergodic_bps(at + step, 1.0, RAYLEIGH) for step in (-1e-9, 1e-9))
    assert above / below == pytest.approx(1.0, abs=1e-9)
    assert above > below


@pytest.mark.parametrize("snr_db", SNRS_DB)
def test_ergodic_is_below_shannon_by_jensen_and_grows_with_k(snr_db):
    rates = [
        ergodic_bps(snr_db, 1.0, fading)
        for fading in (RAYLEIGH, RicianFading(0.0), RicianFading(10.0), RicianFading(30.0), NONE)
    ]
    assert rates == sorted(rates)
    assert rates[-1] == shannon_bps(snr_db, 1.0)
    assert rates[-2] == pytest.approx(rates[-1], rel=3e-3)


@pytest.mark.parametrize("fading", MODELS)
@pytest.mark.parametrize("epsilon", [0.001, 0.1, 0.5, 0.9])
def test_an_outage_has_the_given_probability(fading, epsilon):
    n, snr = 100_000, 10**0.5
    rate = outage_bps(5.0, 1.0, fading, epsilon)
    lost = np.mean(np.log2(1 + powers(fading, n) * snr) < rate * (1 - 1e-12))
    if fading is NONE:
        assert lost == 0.0
        assert rate == shannon_bps(5.0, 1.0)
    else:
        assert lost == pytest.approx(epsilon, abs=5 * math.sqrt(epsilon * (1 - epsilon) / n))


def test_outage_rayleigh_by_hand():
    """A fade below ln 2 happens half of the time; at SNR 1 / ln 2 that edge carries one bit per symbol."""
    assert outage_bps(-10 * math.log10(math.log(2)), 1e3, RAYLEIGH, 0.5) == pytest.approx(1e3, rel=1e-12)


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.5])
def test_outage_rician_lies_between_its_limits(epsilon):
    assert outage_bps(5.0, 1.0, RicianFading(-50.0), epsilon) == pytest.approx(
        outage_bps(5.0, 1.0, RAYLEIGH, epsilon), rel=1e-4
    )
    assert outage_bps(5.0, 1.0, RicianFading(50.0), epsilon) == pytest.approx(shannon_bps(5.0, 1.0), rel=1e-2)


@settings(deadline=None)
@given(st.floats(-50, 100), st.floats(-50, 100), st.sampled_from(MODELS))
def test_every_rate_grows_with_snr(a_db, b_db, fading):
    low, high = sorted((a_db, b_db))
    assert shannon_bps(low, 1.0) <= shannon_bps(high, 1.0)
    assert outage_bps(low, 1.0, fading, 0.1) <= outage_bps(high, 1.0, fading, 0.1)
    assert ergodic_bps(low, 1.0, fading) <= ergodic_bps(high, 1.0, fading) * (1 + 1e-9)


@settings(deadline=None)
@given(st.floats(1e-3, 1e12), st.sampled_from(FADINGS), st.sampled_from(sorted(RATE_MODELS)))
def test_every_rate_is_proportional_to_bandwidth(bandwidth_hz, fading, model):
    channel = ChannelSettings(rate=model, **fading)

    def rate(width_hz):
        return capacity_bps(channel, mean_snr_db=3.0, bandwidth_hz=width_hz)

    assert rate(bandwidth_hz) == pytest.approx(bandwidth_hz * rate(1.0), rel=1e-12)
    assert rate(bandwidth_hz) > 0


@pytest.mark.parametrize("epsilon_pair", [(0.01, 0.1), (0.1, 0.6)])
def test_the_outage_rate_grows_with_its_probability(epsilon_pair):
    low, high = (outage_bps(5.0, 1.0, RicianFading(3.0), epsilon) for epsilon in epsilon_pair)
    assert low < high


def test_the_settings_choose_rate_and_fading_model():
    def rate(model, snr_db=None, **settings):
        channel = ChannelSettings(rate=model, **settings)
        return capacity_bps(channel, mean_snr_db=5.0, bandwidth_hz=1e6, snr_db=snr_db)

    fading = {"fading": "rician", "k_factor_db": 6.0}
    assert rate("shannon", snr_db=1.0, **fading) == shannon_bps(1.0, 1e6)
    assert rate("shannon", **fading) == shannon_bps(5.0, 1e6)
    assert rate("ergodic", snr_db=1.0, **fading) == ergodic_bps(5.0, 1e6, RicianFading(6.0))
    assert rate("outage", outage_epsilon=0.3, **fading) == outage_bps(5.0, 1e6, RicianFading(6.0), 0.3)
    assert rate("ergodic") == shannon_bps(5.0, 1e6)


def test_every_name_of_the_settings_has_a_rate_model_and_no_other():
    assert tuple(RATE_MODELS) == get_args(RateModel)


@pytest.mark.parametrize("model", ["shanon", "", None])
def test_an_unknown_rate_model_is_refused(model):
    with pytest.raises(ChannelError, match="one of shannon, ergodic, outage"):
        capacity_bps(ChannelSettings().model_copy(update={"rate": model}), mean_snr_db=0.0, bandwidth_hz=1.0)


@pytest.mark.parametrize("snr_db", [1e9, -51.0, math.nan, math.inf])
def test_an_snr_out_of_range_is_refused(snr_db):
    for call in (
        lambda: shannon_bps(snr_db, 1.0),
        lambda: ergodic_bps(snr_db, 1.0, RAYLEIGH),
        lambda: outage_bps(snr_db, 1.0, RAYLEIGH, 0.1),
    ):
        with pytest.raises(ChannelError, match=r"snr_db = .*: allowed is a number, -50 or more and 100 at most"):
            call()


@pytest.mark.parametrize("bandwidth_hz", [0.0, -1e6, 1e13, math.nan])
def test_a_bandwidth_out_of_range_is_refused(bandwidth_hz):
    for call in (
        lambda: shannon_bps(0.0, bandwidth_hz),
        lambda: ergodic_bps(0.0, bandwidth_hz, RAYLEIGH),
        lambda: outage_bps(0.0, bandwidth_hz, RAYLEIGH, 0.1),
    ):
        with pytest.raises(ChannelError, match="bandwidth_hz"):
            call()


@pytest.mark.parametrize("epsilon", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_an_outage_probability_out_of_range_is_refused(epsilon):
    with pytest.raises(ChannelError, match="outage_epsilon"):
        outage_bps(0.0, 1.0, RAYLEIGH, epsilon)
