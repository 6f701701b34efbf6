import json
import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import j0, jn_zeros
from scipy.stats import gamma, kstest, ncx2

from airlora.channel import (
    ChannelSettings,
    FadingKind,
    FadingModel,
    FadingProcess,
    NoFading,
    RayleighFading,
    RicianFading,
    jakes_correlation,
    make_fading,
)
from airlora.channel.fading import FADING_MODELS
from airlora.errors import ChannelError, CheckpointError

NONE, RAYLEIGH = NoFading(), RayleighFading()


class Nakagami(FadingModel):
    """A model that defines its power distribution only: |h|^2 is gamma distributed with shape m and mean 1."""

    m = 2.5

    def power_quantile(self, probability):
        return float(gamma.ppf(probability, self.m)) / self.m


def process(fading=RAYLEIGH, seed=0, **settings):
    return FadingProcess(fading, generator=np.random.default_rng(seed), **settings)


def doppler_of(rho):
    """Return f_d whose correlation over a block of 1 s is rho, on the first slope of J0."""
    low, high = 0.0, 0.6
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if j0(2 * math.pi * middle) > rho else (low, middle)
    return low


def independent_gains(model, n):
    """Return n gains a block apart at the first zero of J0, where the process has no memory."""
    doppler_hz = float(jn_zeros(0, 1)[0]) / (2 * math.pi)
    fading = process(model, doppler_hz=doppler_hz)
    assert fading.correlation == pytest.approx(0.0, abs=1e-12)
    return np.array([fading.step() for _ in range(n)])


def test_every_name_of_the_settings_has_a_model_and_no_other():
    assert tuple(FADING_MODELS) == get_args(FadingKind)
    channel = ChannelSettings(k_factor_db=3.0)
    models = [make_fading(channel.model_copy(update={"fading": kind})) for kind in FADING_MODELS]
    assert models == [NONE, RAYLEIGH, RicianFading(3.0)]


def test_the_k_factor_is_a_power_ratio():
    assert RicianFading(3.0).k_factor == pytest.approx(1.9952623149688795)
    assert RicianFading(0.0).gain(1j) == pytest.approx(math.sqrt(0.5) * (1 + 1j))


@pytest.mark.parametrize(
    ("fading", "k"), [(RAYLEIGH, 0.0), (RicianFading(-3.0), 10**-0.3), (RicianFading(6.0), 10**0.6)]
)
def test_gain_has_mean_power_one_and_the_given_k_factor(fading, k):
    n = 40_000
    gains = independent_gains(fading, n)
    power = np.abs(gains) ** 2
    assert power.mean() == pytest.approx(1.0, abs=5 * power.std() / math.sqrt(n))
    line_of_sight = gains.mean()
    assert line_of_sight == pytest.approx(math.sqrt(k / (k + 1)), abs=5 / math.sqrt(n))
    assert gains.var() == pytest.approx(1 / (k + 1), rel=0.05)
    assert kstest(2 * (k + 1) * power, ncx2(2, 2 * k + 1e-12).cdf).pvalue > 1e-3


def test_first_gain_is_already_stationary():
    rng = np.random.default_rng(1)
    power = [abs(FadingProcess(RAYLEIGH, generator=rng).gain) ** 2 for _ in range(4000)]
    assert kstest(power, "expon").pvalue > 1e-3


@pytest.mark.parametrize("rho", [0.95, 0.5, -0.35])
def test_autocorrelation_is_a_power_of_rho(rho):
    n = 60_000
    fading = process(doppler_hz=doppler_of(rho))
    assert fading.correlation == pytest.approx(rho, abs=1e-6)
    gains = np.array([fading.step() for _ in range(n)])
    error = 5 * math.sqrt((1 + rho**2) / (1 - rho**2) / n)
    for lag in (1, 2, 3, 5):
        measured = np.vdot(gains[:-lag], gains[lag:]) / (n - lag)
        assert measured.real == pytest.approx(rho**lag, abs=error)
        assert measured.imag == pytest.approx(0.0, abs=error)


@pytest.mark.parametrize("model", [RAYLEIGH, RicianFading(5.0)])
def test_without_doppler_the_gain_is_constant(model):
    fading = process(model)
    first = fading.gain
    assert {fading.step() for _ in range(50)} == {first}
    assert process(model, seed=1).gain != first


def test_a_model_needs_only_the_distribution_of_its_power():
    n = 20_000
    gains = independent_gains(Nakagami(), n)
    assert kstest(Nakagami.m * np.abs(gains) ** 2, gamma(Nakagami.m).cdf).pvalue > 1e-3
    assert kstest(np.angle(gains) / (2 * math.pi) + 0.5, "uniform").pvalue > 1e-3
    assert abs(Nakagami().gain(100.0 + 0j)) < 10.0
    bits = np.log2(1.0 + 3.0 * np.abs(gains) ** 2)
    assert Nakagami().mean_bits(3.0) == pytest.approx(bits.mean(), abs=5 * bits.std() / math.sqrt(n))


def test_without_fading_the_gain_is_one():
    fading = process(NONE, doppler_hz=5.0)
    assert [fading.gain, fading.step(), fading.step()] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("doppler_hz", "block_s", "rho"),
    [(0.0, 3.0, 1.0), (0.1, 1.0, 0.9037126421), (10.0, 0.01, 0.9037126421), (0.5, 1.0, -0.3042421776)],
)
def test_jakes_correlation_by_table(doppler_hz, block_s, rho):
    """J0(pi / 5) and J0(pi), as tabulated."""
    assert jakes_correlation(doppler_hz, block_s) == pytest.approx(rho, abs=1e-9)


@given(st.floats(0, 1e9), st.floats(1e-6, 1e7))
def test_jakes_correlation_is_a_correlation(doppler_hz, block_s):
    assert -0.41 < jakes_correlation(doppler_hz, block_s) <= 1.0


@pytest.mark.parametrize("model", [NONE, RAYLEIGH, RicianFading(4.0)])
def test_a_restored_state_continues_bit_for_bit(model):
    fading = process(model, doppler_hz=0.2)
    for _ in range(7):
        fading.step()
    state = json.loads(json.dumps(fading.state_dict()))
    other = process(model, seed=99, doppler_hz=0.2)
    other.load_state_dict(state)
    assert other.gain == fading.gain
    assert [other.step() for _ in range(20)] == [fading.step() for _ in range(20)]


def test_later_draws_from_the_generator_do_not_change_the_process():
    shared = np.random.default_rng(5)
    fading = FadingProcess(RAYLEIGH, doppler_hz=0.2, generator=shared)
    alone = process(seed=5, doppler_hz=0.2)
    gains = []
    for _ in range(5):
        shared.random(3)
        gains.append(fading.step())
    assert gains == [alone.step() for _ in range(5)]


@pytest.mark.parametrize(
    "damage",
    [
        {"scattered": [1.0]},
        {"scattered": [1.0, math.nan]},
        {"scattered": ["a", "b"]},
        {"scattered": None},
        {"generator": {}},
        {"generator": None},
        {"generator": {"bit_generator": "MT19937"}},
    ],
)
def test_damaged_state_is_refused_and_changes_nothing(damage):
    fading = process(doppler_hz=0.2)
    twin = process(doppler_hz=0.2)
    with pytest.raises(CheckpointError, match="fading process is damaged"):
        fading.load_state_dict({**fading.state_dict(), **damage})
    with pytest.raises(CheckpointError, match="fading process is damaged"):
        fading.load_state_dict({})
    assert [fading.step() for _ in range(5)] == [twin.step() for _ in range(5)]


@pytest.mark.parametrize("kind", ["fog", "", None, "Rayleigh"])
def test_an_unknown_model_is_refused(kind):
    with pytest.raises(ChannelError, match="one of none, rayleigh, rician"):
        make_fading(ChannelSettings().model_copy(update={"fading": kind}))


@pytest.mark.parametrize("k_factor_db", [None, math.nan, math.inf, -math.inf, 51.0, -51.0, "3"])
def test_a_k_factor_out_of_range_is_refused(k_factor_db):
    with pytest.raises(ChannelError, match="k_factor_db = "):
        RicianFading(k_factor_db)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"doppler_hz": -1.0}, "doppler_hz"),
        ({"doppler_hz": math.nan}, "doppler_hz"),
        ({"block_s": 0.0}, "block_s"),
        ({"block_s": math.inf}, "block_s"),
    ],
)
def test_doppler_shift_and_block_length_out_of_range_are_refused(settings, name):
    with pytest.raises(ChannelError, match=name):
        process(**settings)
