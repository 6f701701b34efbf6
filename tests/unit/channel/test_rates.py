import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import ncx2

from airlora.channel import FadingModel, capacity_bps, ergodic_bps, outage_bps, shannon_bps
from airlora.errors import ChannelError

NONE, RAYLEIGH = FadingModel("none"), FadingModel("rayleigh")
SNRS_DB = [-50.0, -28.0, -20.0, -16.99, -5.0, 0.0, 5.0, 15.0, 40.0, 100.0]


def rician(k_factor_db):
    return FadingModel("rician", k_factor_db=k_factor_db)


MODELS = [NONE, RAYLEIGH, rician(-20.0), rician(0.0), rician(10.0), rician(50.0)]


def powers(fading, n, seed=0):
    rng = np.random.default_rng(seed)
    share = fading.scattered_share
    scattered = (rng.standard_normal(n) + 1j * rng.standard_normal(n)) * math.sqrt(0.5)
    return np.abs(math.sqrt(1 - share) + math.sqrt(share) * scattered) ** 2


@pytest.mark.parametrize(
    ("snr_db", "bits"), [(0.0, 1.0), (10 * math.log10(3), 2.0), (10 * math.log10(1023), 10.0), (-50.0, 1.4426878e-5)]
)
def test_shannon_by_hand(snr_db, bits):
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
    assert ergodic_bps(snr_db, 1.0, rician(k_factor_db)) == pytest.approx(mean, rel=1e-8)


@pytest.mark.parametrize("snr_db", SNRS_DB)
def test_ergodic_rayleigh_agrees_with_its_integral(snr_db):
    """The closed form and the asymptotic series below -17 dB, against the quadrature at a K of nearly 0."""
    assert ergodic_bps(snr_db, 1.0, RAYLEIGH) == pytest.approx(ergodic_bps(snr_db, 1.0, rician(-50.0)), rel=2e-5)


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
    rates = [ergodic_bps(snr_db, 1.0, fading) for fading in (RAYLEIGH, rician(0.0), rician(10.0), rician(30.0), NONE)]
    assert rates == sorted(rates)
    assert rates[-1] == shannon_bps(snr_db, 1.0)
    assert rates[-2] == pytest.approx(rates[-1], rel=3e-3)


@pytest.mark.parametrize("fading", MODELS)
@pytest.mark.parametrize("epsilon", [0.001, 0.1, 0.5, 0.9])
def test_outage_happens_as_often_as_asked(fading, epsilon):
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
    assert outage_bps(5.0, 1.0, rician(-50.0), epsilon) == pytest.approx(
        outage_bps(5.0, 1.0, RAYLEIGH, epsilon), rel=1e-4
    )
    assert outage_bps(5.0, 1.0, rician(50.0), epsilon) == pytest.approx(shannon_bps(5.0, 1.0), rel=1e-2)


@settings(deadline=None)
@given(st.floats(-50, 100), st.floats(-50, 100), st.sampled_from(MODELS))
def test_every_rate_grows_with_snr(a_db, b_db, fading):
    low, high = sorted((a_db, b_db))
    assert shannon_bps(low, 1.0) <= shannon_bps(high, 1.0)
    assert outage_bps(low, 1.0, fading, 0.1) <= outage_bps(high, 1.0, fading, 0.1)
    assert ergodic_bps(low, 1.0, fading) <= ergodic_bps(high, 1.0, fading) * (1 + 1e-9)


@settings(deadline=None)
@given(st.floats(1e-3, 1e12), st.sampled_from(MODELS), st.sampled_from(["shannon", "ergodic", "outage"]))
def test_every_rate_is_proportional_to_bandwidth(bandwidth_hz, fading, model):
    def rate(width_hz):
        return capacity_bps(model, mean_snr_db=3.0, bandwidth_hz=width_hz, fading=fading)

    assert rate(bandwidth_hz) == pytest.approx(bandwidth_hz * rate(1.0), rel=1e-12)
    assert rate(bandwidth_hz) > 0


@pytest.mark.parametrize("epsilon_pair", [(0.01, 0.1), (0.1, 0.6)])
def test_outage_rate_grows_with_the_share_given_up(epsilon_pair):
    low, high = (outage_bps(5.0, 1.0, rician(3.0), epsilon) for epsilon in epsilon_pair)
    assert low < high


def test_dispatch():
    fading = rician(6.0)
    settings = {"mean_snr_db": 5.0, "bandwidth_hz": 1e6, "fading": fading}
    assert capacity_bps("shannon", snr_db=1.0, **settings) == shannon_bps(1.0, 1e6)
    assert capacity_bps("shannon", **settings) == shannon_bps(5.0, 1e6)
    assert capacity_bps("ergodic", snr_db=1.0, **settings) == ergodic_bps(5.0, 1e6, fading)
    assert capacity_bps("outage", outage_epsilon=0.3, **settings) == outage_bps(5.0, 1e6, fading, 0.3)
    assert capacity_bps("ergodic", mean_snr_db=5.0, bandwidth_hz=1e6) == shannon_bps(5.0, 1e6)


@pytest.mark.parametrize("model", ["shanon", "", None])
def test_unknown_rate_model(model):
    with pytest.raises(ChannelError, match="one of shannon, ergodic, outage"):
        capacity_bps(model, mean_snr_db=0.0, bandwidth_hz=1.0)


@pytest.mark.parametrize("snr_db", [1e9, -51.0, math.nan, math.inf])
def test_snr_limits(snr_db):
    for call in (
        lambda: shannon_bps(snr_db, 1.0),
        lambda: ergodic_bps(snr_db, 1.0, RAYLEIGH),
        lambda: outage_bps(snr_db, 1.0, RAYLEIGH, 0.1),
    ):
        with pytest.raises(ChannelError, match=r"snr_db = .*: allowed is a number, -50 or more and 100 at most"):
            call()


@pytest.mark.parametrize("bandwidth_hz", [0.0, -1e6, 1e13, math.nan])
def test_bandwidth_limits(bandwidth_hz):
    for call in (
        lambda: shannon_bps(0.0, bandwidth_hz),
        lambda: ergodic_bps(0.0, bandwidth_hz, RAYLEIGH),
        lambda: outage_bps(0.0, bandwidth_hz, RAYLEIGH, 0.1),
    ):
        with pytest.raises(ChannelError, match="bandwidth_hz"):
            call()


@pytest.mark.parametrize("epsilon", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_epsilon_limits(epsilon):
    with pytest.raises(ChannelError, match="outage_epsilon"):
        outage_bps(0.0, 1.0, RAYLEIGH, epsilon)
