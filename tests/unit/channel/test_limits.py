import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.channel import limits
from airlora.errors import ChannelError

NOT_NUMBERS = [math.nan, math.inf, -math.inf, "1", None, True, 1 + 0j]


@pytest.mark.parametrize(
    ("verify", "good", "bad"),
    [
        (limits.verify_snr_db, [-50, 0.0, 100], [-50.1, 100.1, 1e9]),
        (limits.verify_bandwidth_hz, [1e-3, 1e12], [0, -1e6, 1.1e12]),
        (limits.verify_capacity_bps, [1e-9, 1e15], [0, -1.0, 1.1e15]),
        (limits.verify_deadline_s, [1e-6, 1e7], [0, -1.0, 1.1e7]),
        (limits.verify_bits_per_param, [0.5, 64], [0, -8, 65]),
        (limits.verify_k_factor_db, [-50, 50], [-51, 51]),
        (limits.verify_doppler_hz, [0, 1e9], [-1.0, 1.1e9]),
        (limits.verify_block_s, [1e-6, 1e7], [0, -1.0, 1.1e7]),
        (limits.verify_outage_epsilon, [1e-9, 0.999], [0, 1, -0.1, 1.5]),
    ],
)
def test_limits_are_named_with_value_and_what_is_allowed(verify, good, bad):
    name = verify.__name__.removeprefix("verify_")
    for value in [*good, np.float64(good[-1]), np.float32(good[-1])]:
        verify(value)
    for value in [*bad, *NOT_NUMBERS]:
        with pytest.raises(ChannelError) as caught:
            verify(value)
        assert str(caught.value).startswith(f"{name} = {value!r}: allowed is a number")
    with pytest.raises(ChannelError, match=r"^mine = "):
        verify(bad[0], "mine")


def test_number_message_tells_open_and_closed_ends():
    with pytest.raises(ChannelError, match=r"a number, above 0 and below 1$"):
        limits.verify_number("x", 1, 0.0, 1.0, above=True, below=True)
    with pytest.raises(ChannelError, match=r"a number, 0 or more and 1 at most$"):
        limits.verify_number("x", 2, 0.0, 1.0)
    with pytest.raises(ChannelError, match=r"a number, 0 or more and finite$"):
        limits.verify_number("x", math.inf, 0.0, math.inf)


@pytest.mark.parametrize("value", [0, 7, np.int64(3)])
def test_count_takes_whole_numbers(value):
    limits.verify_count("n", value)


@pytest.mark.parametrize("value", [-1, 1.0, True, "1", None, math.nan])
def test_count_refuses_the_rest(value):
    with pytest.raises(ChannelError, match="whole number, 0 or more"):
        limits.verify_count("n", value)


def test_choice_lists_the_choices():
    limits.verify_choice("fading", "none", ("none", "rician"))
    with pytest.raises(ChannelError, match="fading = 'nakagami': allowed is one of none, rician"):
        limits.verify_choice("fading", "nakagami", ("none", "rician"))
    with pytest.raises(ChannelError, match="fading = None"):
        limits.verify_choice("fading", None, ("none", "rician"))


@pytest.mark.parametrize(("value_db", "ratio"), [(0.0, 1.0), (10.0, 10.0), (-30.0, 1e-3), (3.0, 1.9952623149688795)])
def test_decibels_by_hand(value_db, ratio):
    assert limits.db_to_linear(value_db) == pytest.approx(ratio, rel=1e-14)
    assert limits.linear_to_db(ratio) == pytest.approx(value_db, abs=1e-12)


@given(st.floats(-300, 300))
def test_decibels_round_trip(value_db):
    assert limits.linear_to_db(limits.db_to_linear(value_db)) == pytest.approx(value_db, abs=1e-9)


@pytest.mark.parametrize("value", [1e9, math.nan, math.inf])
def test_decibels_beyond_a_float_are_refused(value):
    with pytest.raises(ChannelError, match="value_db"):
        limits.db_to_linear(value)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_ratio_without_decibels_is_refused(value):
    with pytest.raises(ChannelError, match="ratio"):
        limits.linear_to_db(value)


def test_any_real_number_type_is_a_number():
    limits.verify_snr_db(Fraction(1, 3))
