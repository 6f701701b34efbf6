import json
import math
import sys

import numpy as np
import pytest
from scipy.stats import kstest

from airlora.channel import (
    MAX_SNR_DB,
    MIN_SNR_DB,
    ChannelSettings,
    Link,
    LinkProcess,
    Range,
    RicianFading,
    budget_params,
    ergodic_bps,
    make_link,
    outage_bps,
    register_link_process,
    shannon_bps,
)
from airlora.channel.link import LINK_PROCESSES, _faded_snr_db
from airlora.errors import ChannelError, CheckpointError, SettingsError


def link(snr_db=(-5.0, 5.0), bandwidth_hz=(1e5, 1e6), **settings):
    channel = ChannelSettings().model_copy(update=settings)  # without validation
    return LinkProcess(channel, snr_db=snr_db, bandwidth_hz=bandwidth_hz)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_without_fading_the_link_keeps_its_first_state():
    process = link()
    first = process.reset(rng())
    assert first.snr_db == first.mean_snr_db
    assert first.gain == 1.0
    assert first.capacity_bps == shannon_bps(first.mean_snr_db, first.bandwidth_hz)
    assert [process.step() for _ in range(3)] == [first] * 3
    assert process.state == first


def test_episodes_draw_every_pair_of_the_given_values_and_no_other():
    process, generator = link(), rng()
    drawn = [process.reset(generator) for _ in range(200)]
    pairs = {(state.mean_snr_db, state.bandwidth_hz) for state in drawn}
    assert pairs == {(-5.0, 1e5), (-5.0, 1e6), (5.0, 1e5), (5.0, 1e6)}


def test_ranges_are_drawn_uniformly_in_decibels():
    process, generator = link(snr_db=Range(-5.0, 15.0), bandwidth_hz=Range(1e4, 1e8)), rng()
    drawn = [process.reset(generator) for _ in range(2000)]
    snr_share = [(state.mean_snr_db + 5) / 20 for state in drawn]
    bandwidth_share = [math.log10(state.bandwidth_hz / 1e4) / 4 for state in drawn]
    assert kstest(snr_share, "uniform").pvalue > 1e-3
    assert kstest(bandwidth_share, "uniform").pvalue > 1e-3


def test_single_values_and_ranges_of_one_value_are_constants():
    for snr_db, bandwidth_hz in [(3.0, 2e6), (3, 2_000_000), (Range(3.0, 3.0), Range(2e6, 2e6)), ((3.0,), [2e6])]:
        state = link(snr_db=snr_db, bandwidth_hz=bandwidth_hz).reset(rng())
        assert (state.mean_snr_db, state.bandwidth_hz) == (3.0, pytest.approx(2e6))


def test_fading_changes_snr_and_shannon_rate_but_not_mean_snr_and_bandwidth():
    process = link(fading="rayleigh", doppler_hz=0.3)
    first = process.reset(rng())
    states = [process.step() for _ in range(50)]
    assert len({state.snr_db for state in states}) == 50
    for state in states:
        assert (state.mean_snr_db, state.bandwidth_hz) == (first.mean_snr_db, first.bandwidth_hz)
        assert state.snr_db == pytest.approx(state.mean_snr_db + 20 * math.log10(abs(state.gain)))
        assert state.capacity_bps == shannon_bps(state.snr_db, state.bandwidth_hz)


def test_ergodic_and_outage_rates_depend_on_the_mean_snr_only():
    fading = RicianFading(3.0)
    settings = {"snr_db": 5.0, "bandwidth_hz": 1e6, "fading": "rician", "k_factor_db": 3.0, "doppler_hz": 0.3}
    ergodic = link(rate="ergodic", **settings)
    outage = link(rate="outage", outage_epsilon=0.05, **settings)
    for process, rate in [(ergodic, ergodic_bps(5.0, 1e6, fading)), (outage, outage_bps(5.0, 1e6, fading, 0.05))]:
        first = process.reset(rng())
        second = process.step()
        assert first.snr_db != second.snr_db
        assert first.capacity_bps == second.capacity_bps == rate


def test_the_same_seed_gives_the_same_link():
    def run(seed):
        process, generator = link(fading="rayleigh", doppler_hz=0.3, snr_db=Range(-5, 15)), rng(seed)
        states = []
        for _ in range(3):
            states += [process.reset(generator), process.step(), process.step()]
        return states

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_every_episode_draws_a_new_gain():
    process, generator = link(fading="rayleigh"), rng()
    assert len({process.reset(generator).gain for _ in range(20)}) == 20


@pytest.mark.parametrize("settings", [{}, {"fading": "rayleigh"}, {"fading": "rician", "k_factor_db": 6.0}])
def test_a_restored_state_continues_bit_for_bit(settings):
    process = link(doppler_hz=0.2, snr_db=Range(-5, 15), bandwidth_hz=Range(1e4, 1e8), **settings)
    process.reset(rng(4))
    for _ in range(5):
        process.step()
    state = json.loads(json.dumps(process.state_dict()))
    other = link(doppler_hz=0.2, **settings)
    other.load_state_dict(state)
    assert other.state == process.state
    assert [other.step() for _ in range(10)] == [process.step() for _ in range(10)]


def test_the_snr_of_an_extreme_fade_is_limited():
    assert _faded_snr_db(15.0, 0j) == MIN_SNR_DB
    assert _faded_snr_db(100.0, 0j) == MIN_SNR_DB
    assert _faded_snr_db(15.0, 1e-9) == MIN_SNR_DB
    assert _faded_snr_db(99.0, 2.0) == MAX_SNR_DB
    assert _faded_snr_db(15.0, 0.1j) == pytest.approx(-5.0)


def test_the_budget_of_the_weakest_link_is_zero():
    process = link(snr_db=-50.0, bandwidth_hz=1.0, fading="rayleigh", doppler_hz=0.4)
    states = [process.reset(rng())] + [process.step() for _ in range(200)]
    assert min(state.snr_db for state in states) == MIN_SNR_DB
    assert all(budget_params(capacity_bps=state.capacity_bps, deadline_s=1.0) == 0 for state in states)


def test_a_link_has_no_state_before_reset():
    process = link()
    for call in (process.step, process.state_dict, lambda: process.state):
        with pytest.raises(ChannelError, match="call reset first"):
            call()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"snr_db": []}, "snr_db = \\[\\]"),
        ({"snr_db": 1e9}, "snr_db = 1000000000.0"),
        ({"snr_db": [0.0, math.nan]}, "snr_db = nan"),
        ({"snr_db": "5"}, "snr_db = '5'"),
        ({"snr_db": Range(10.0, 0.0)}, "snr_db = Range"),
        ({"snr_db": Range(-60.0, 0.0)}, "snr_db.low = -60.0"),
        ({"snr_db": Range(0.0, math.inf)}, "snr_db.high = inf"),
        ({"bandwidth_hz": -1e6}, "bandwidth_hz = -1000000.0"),
        ({"bandwidth_hz": []}, "bandwidth_hz"),
        ({"bandwidth_hz": [1e6, 0.0]}, "bandwidth_hz = 0.0"),
        ({"bandwidth_hz": Range(0.0, 1e6)}, "bandwidth_hz.low = 0.0"),
        ({"fading": "fog"}, "fading = 'fog'"),
        ({"fading": "rician"}, "k_factor_db = None"),
        ({"fading": "rician", "k_factor_db": math.inf}, "k_factor_db = inf"),
        ({"doppler_hz": -1.0}, "doppler_hz"),
        ({"block_s": 0.0}, "block_s"),
        ({"rate": "polar"}, "rate = 'polar'"),
        ({"rate": "outage", "outage_epsilon": 1.0}, "outage_epsilon"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_drawn(settings, name):
    with pytest.raises(ChannelError, match=name):
        link(**settings)


@pytest.mark.parametrize("damage", [{"mean_snr_db": 1e9}, {"bandwidth_hz": None}, {"fading": {}}, {"fading": None}])
def test_damaged_state_is_refused_and_changes_nothing(damage):
    process = link(fading="rayleigh", doppler_hz=0.2)
    process.reset(rng())
    before, state = process.state, process.state_dict()
    with pytest.raises(CheckpointError, match="is damaged"):
        process.load_state_dict({**state, **damage})
    with pytest.raises(CheckpointError, match="is damaged"):
        process.load_state_dict({})
    assert process.state == before
    assert process.state_dict() == state


def test_without_spreads_the_link_draws_from_its_settings():
    process = LinkProcess(ChannelSettings(snr_db=[3.0], bandwidth_hz=[2e6]))
    state = process.reset(rng())
    assert (state.mean_snr_db, state.bandwidth_hz) == (3.0, 2e6)


def test_the_rate_of_a_named_link_is_that_of_the_rate_model():
    channel = ChannelSettings(fading="rician", k_factor_db=3.0, rate="ergodic")
    expected = ergodic_bps(5.0, 1e6, RicianFading(3.0))
    assert Link(5.0, 1e6).capacity_bps(channel) == LinkProcess(channel).capacity_bps(Link(5.0, 1e6)) == expected


class HalfRate(LinkProcess):
    """A link process that a user wrote."""

    def capacity_bps(self, link):
        return super().capacity_bps(link) / 2


def test_a_registered_link_process_is_made_from_the_settings(monkeypatch):
    monkeypatch.setattr("airlora.channel.link.LINK_PROCESSES", {})
    register_link_process("half", HalfRate)
    channel = ChannelSettings(process="half")
    assert isinstance(make_link(channel), HalfRate)
    assert make_link(channel).channel == channel
    assert Link(0.0, 1e6).capacity_bps(channel) == 5e5


def test_a_link_process_is_imported_by_name_and_only_when_it_is_registered(monkeypatch, tmp_path):
    (tmp_path / "unit_links.py").write_text("from airlora.channel import LinkProcess\nclass Mine(LinkProcess): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("airlora.channel.link.LINK_PROCESSES", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    channel = ChannelSettings(process="unit_links:Mine")
    message = r"channel.process = 'unit_links:Mine': .*--set channel.process=unit_links:Mine.*register_link_process"
    for call in (lambda: make_link(channel), lambda: Link(0.0, 1e6).capacity_bps(channel)):
        with pytest.raises(SettingsError, match=message):
            call()
    assert "unit_links" not in sys.modules
    register_link_process("unit_links:Mine")
    assert type(make_link(channel)).__name__ == "Mine"


def test_a_class_without_the_methods_of_a_link_process_is_refused():
    with pytest.raises(SettingsError, match="channel.process = 'fractions:Fraction': allowed is a class with .*reset"):
        register_link_process("fractions:Fraction")
    assert "fractions:Fraction" not in LINK_PROCESSES
