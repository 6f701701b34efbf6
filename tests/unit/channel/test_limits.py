import math
from fractions import Fraction

import numpy as np
import pytest
from annotated_types import Interval
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airlora.channel import ChannelSettings, limits, settings
from airlora.errors import ChannelError

NOT_NUMBERS = [math.nan, math.inf, -math.inf, "1", None, True, 1 + 0j]


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("snr_db", [-50, 0.0, 100], [-50.1, 100.1, 1e9]),
        ("bandwidth_hz", [1e-3, 1e12], [0, -1e6, 1.1e12]),
        ("capacity_bps", [1e-9, 1e15], [0, -1.0, 1.1e15]),
        ("deadline_s", [1e-6, 1e7], [0, -1.0, 1.1e7]),
        ("bits_per_param", [0.5, 64], [0, -8, 65]),
        ("k_factor_db", [-50, 50], [-51, 51]),
        ("doppler_hz", [0, 1e9], [-1.0, 1.1e9]),
        ("block_s", [1e-6, 1e7], [0, -1.0, 1.1e7]),
        ("outage_epsilon", [1e-9, 0.999], [0, 1, -0.1, 1.5]),
    ],
)
def test_functions_and_settings_refuse_the_same_values(name, good, bad):
    def set_value(value):
        is_list = name in ("snr_db", "bandwidth_hz")
        return ChannelSettings(**{name: [value] if is_list else value})

    allowed = getattr(settings, name.upper())
    for value in [*good, np.float64(good[-1]), np.float32(good[-1])]:
        limits.verify_number(name, value, allowed)
        if name != "capacity_bps":
            set_value(value)
    for value in [*bad, *NOT_NUMBERS]:
        with pytest.raises(ChannelError) as caught:
            limits.verify_number(name, value, allowed)
        assert str(caught.value).startswith(f"{name} = {value!r}: allowed is a number")
    for value in [*bad, math.nan, math.inf, -math.inf]:
        if name != "capacity_bps":
            with pytest.raises(ValidationError):
                set_value(value)


def test_the_message_states_open_and_closed_ends():
    with pytest.raises(ChannelError, match=r"a number, above 0 and below 1$"):
        limits.verify_number("x", 1, Interval(gt=0, lt=1))
    with pytest.raises(ChannelError, match=r"a number, 0 or more and 1 at most$"):
        limits.verify_number("x", 2, Interval(ge=0, le=1))
    with pytest.raises(ChannelError, match=r"a number, 0 or more and finite$"):
        limits.verify_number("x", math.inf, limits.NON_NEGATIVE)


@pytest.mark.parametrize("value", [0, 7, np.int64(3)])
def test_whole_numbers_are_counts(value):
    limits.verify_count("n", value)


@pytest.mark.parametrize("value", [-1, 1.0, True, "1", None, math.nan])
def test_other_values_are_no_counts(value):
    with pytest.raises(ChannelError, match="whole number, 0 or more"):
        limits.verify_count("n", value)


def test_the_message_lists_the_choices():
    limits.verify_choice("fading", "none", ("none", "rician"))
    with pytest.raises(ChannelError, match="fading = 'fog': allowed is one of none, rician"):
        limits.verify_choice("fading", "fog", ("none", "rician"))
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
def test_a_ratio_that_has_no_decibels_is_refused(value):
    with pytest.raises(ChannelError, match="ratio"):
        limits.linear_to_db(value)


def test_any_real_number_type_is_a_number():
    limits.verify_number("snr_db", Fraction(1, 3), settings.SNR_DB)
