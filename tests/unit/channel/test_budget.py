import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.channel import (
    budget_params,
    communication_cost,
    is_within_deadline,
    paper_communication_cost,
    shannon_bps,
    transfer_time_s,
    transfer_times_s,
    verify_within_deadline,
)
from airlora.errors import ChannelError, RankPatternError
from airlora.ranks import ModuleShape, RankPattern

SHAPES = {"q": ModuleShape(8, 8), "fc1": ModuleShape(8, 32)}
PATTERN = RankPattern({"q": 2, "fc1": 3})
NUM_PARAMS = 2 * 17 + 3 * 41

capacities = st.floats(1e-3, 1e13)
deadlines = st.floats(1e-3, 1e4)
widths = st.floats(0.1, 64)


def test_time_by_hand():
    assert transfer_time_s(1000, capacity_bps=32_000.0) == 1.0
    assert transfer_time_s(1000, capacity_bps=32_000.0, bits_per_param=8) == 0.25
    assert transfer_time_s(0, capacity_bps=1.0) == 0.0


def test_time_per_module_by_hand_and_in_sum():
    times = transfer_times_s(PATTERN, SHAPES, capacity_bps=3200.0)
    assert list(times) == ["q", "fc1"]
    assert times == pytest.approx({"q": 0.34, "fc1": 1.23})
    assert sum(times.values()) == pytest.approx(transfer_time_s(NUM_PARAMS, capacity_bps=3200.0))


def test_cost_by_hand():
    cost = communication_cost(PATTERN, SHAPES, capacity_bps=3200.0, deadline_s=2.0)
    assert cost == pytest.approx(1.57 / 2)
    with_head = communication_cost(PATTERN, SHAPES, capacity_bps=3200.0, deadline_s=2.0, head_params=100)
    assert with_head == pytest.approx(2.57 / 2)


def test_paper_cost_takes_every_module_as_square():
    assert paper_communication_cost([2, 3], 8, capacity_bps=3200.0, deadline_s=2.0) == pytest.approx(0.85 / 2)
    square = {"q": ModuleShape(8, 8)}
    pattern = RankPattern({"q": 5})
    ours = communication_cost(pattern, square, capacity_bps=3200.0, deadline_s=2.0)
    assert paper_communication_cost(pattern.ranks, 8, capacity_bps=3200.0, deadline_s=2.0) == ours


def test_the_papers_link_carries_mean_rank_12_of_opt_at_10_db():
    """24 layers of four 2048 x 2048 and two 2048 x 8192 projections, FP32, 100 MHz, 1 s."""
    per_rank = 24 * (4 * (2048 + 2048 + 1) + 2 * (2048 + 8192 + 1))
    assert per_rank == 884_880
    budget = budget_params(capacity_bps=shannon_bps(10.0, 100e6), deadline_s=1.0)
    assert budget / per_rank == pytest.approx(12.2, abs=0.05)


@given(capacities, deadlines, widths, st.integers(1, 4))
def test_cost_is_linear_in_time_and_size(capacity_bps, deadline_s, bits, factor):
    def cost(pattern=PATTERN, **changes):
        settings = {"capacity_bps": capacity_bps, "deadline_s": deadline_s, "bits_per_param": bits, **changes}
        return communication_cost(pattern, SHAPES, **settings)

    scaled = RankPattern({"q": 2, "fc1": 2})
    assert cost(scaled) == pytest.approx(2 * cost(RankPattern.constant(SHAPES, 1)))
    assert cost(deadline_s=deadline_s * factor) == pytest.approx(cost() / factor)
    assert cost(capacity_bps=capacity_bps * factor) == pytest.approx(cost() / factor)
    assert cost(RankPattern.constant(SHAPES, 0)) == 0.0


@given(capacities, deadlines, widths)
def test_budget_is_the_last_count_that_meets_the_deadline(capacity_bps, deadline_s, bits):
    n = budget_params(capacity_bps=capacity_bps, deadline_s=deadline_s, bits_per_param=bits)
    if n >= 2**50:
        assert n == 2**50
        return
    nothing = RankPattern.constant(SHAPES, 0)
    link = {"capacity_bps": capacity_bps, "deadline_s": deadline_s, "bits_per_param": bits}
    assert is_within_deadline(nothing, SHAPES, head_params=n, **link)
    assert not is_within_deadline(nothing, SHAPES, head_params=n + 1, **link)
    with pytest.raises(ChannelError):
        verify_within_deadline(nothing, SHAPES, head_params=n + 1, **link)


@given(st.integers(1, 10**9), widths, deadlines)
def test_budget_gives_back_a_count_the_link_was_made_for(n, bits, deadline_s):
    """A rate rounded from n b / T may lie a hair below; the budget is then n - 1, never less."""
    n_back = budget_params(capacity_bps=n * bits / deadline_s, deadline_s=deadline_s, bits_per_param=bits)
    assert n - 1 <= n_back <= n


@pytest.mark.parametrize(
    ("capacity_bps", "deadline_s", "bits", "count"),
    [(41349.0, 0.1, 2.1, 1968), (4673.3076923076915, 1.3, 3.3, 1841)],
)
def test_budget_and_cost_agree_where_rounding_crosses_a_whole_number(capacity_bps, deadline_s, bits, count):
    """C T / b rounds to 1969 and to just below 1841, but the cost of 1969 is above 1 and that of 1841 is 1."""
    link = {"capacity_bps": capacity_bps, "deadline_s": deadline_s, "bits_per_param": bits}
    nothing = RankPattern.constant(SHAPES, 0)
    assert budget_params(**link) == count
    assert is_within_deadline(nothing, SHAPES, head_params=count, **link)
    assert not is_within_deadline(nothing, SHAPES, head_params=count + 1, **link)


def test_budget_takes_the_head_off_and_stops_at_zero():
    link = {"capacity_bps": 3200.0, "deadline_s": 1.0}
    assert budget_params(**link) == 100
    assert budget_params(head_params=60, **link) == 40
    assert budget_params(head_params=101, **link) == 0


@pytest.mark.parametrize("bits", [5e-324, 1e-300])
def test_budget_stays_a_number_at_absurdly_few_bits(bits):
    assert budget_params(capacity_bps=1e15, deadline_s=1e7, bits_per_param=bits) == 2**50


def test_deadline_by_hand():
    link = {"capacity_bps": 32.0 * NUM_PARAMS, "bits_per_param": 32.0}
    assert is_within_deadline(PATTERN, SHAPES, deadline_s=1.0, **link)
    verify_within_deadline(PATTERN, SHAPES, deadline_s=1.0, **link)
    assert not is_within_deadline(PATTERN, SHAPES, deadline_s=1.0, head_params=1, **link)
    assert not is_within_deadline(PATTERN, SHAPES, deadline_s=0.99, **link)
    with pytest.raises(ChannelError, match=r"takes 1 s at 5024 bit/s: allowed is deadline_s = 0\.5 at most"):
        verify_within_deadline(PATTERN, SHAPES, deadline_s=0.5, **link)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"capacity_bps": 0.0}, "capacity_bps"),
        ({"capacity_bps": -1.0}, "capacity_bps"),
        ({"capacity_bps": math.nan}, "capacity_bps"),
        ({"deadline_s": 0.0}, "deadline_s"),
        ({"deadline_s": math.inf}, "deadline_s"),
        ({"bits_per_param": 0.0}, "bits_per_param"),
        ({"bits_per_param": 65.0}, "bits_per_param"),
        ({"head_params": -1}, "head_params"),
        ({"head_params": 1.5}, "head_params"),
    ],
)
def test_bad_links(changes, name):
    link = {"capacity_bps": 1.0, "deadline_s": 1.0, **changes}
    for call in (
        lambda: communication_cost(PATTERN, SHAPES, **link),
        lambda: is_within_deadline(PATTERN, SHAPES, **link),
        lambda: verify_within_deadline(PATTERN, SHAPES, **link),
        lambda: budget_params(**link),
    ):
        with pytest.raises(ChannelError, match=name):
            call()
    if "head_params" not in changes:
        with pytest.raises(ChannelError, match=name):
            paper_communication_cost([1], 8, **link)
    if "head_params" not in changes and "deadline_s" not in changes:
        del link["deadline_s"]
        with pytest.raises(ChannelError, match=name):
            transfer_times_s(PATTERN, SHAPES, **link)


@pytest.mark.parametrize("num_params", [-1, 1.5, True])
def test_bad_counts(num_params):
    with pytest.raises(ChannelError, match="num_params"):
        transfer_time_s(num_params, capacity_bps=1.0)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (RankPattern({"q": 1}), "lacks 1 of 2 modules: fc1"),
        (RankPattern({"q": 1, "fc1": 1, "fc2": 1}), "module = 'fc2'"),
        (RankPattern({"q": 9, "fc1": 1}), "rank of q = 9"),
    ],
)
def test_patterns_that_do_not_fit_the_modules(pattern, message):
    link = {"capacity_bps": 1.0, "deadline_s": 1.0}
    for call in (communication_cost, is_within_deadline, verify_within_deadline):
        with pytest.raises(RankPatternError, match=message):
            call(pattern, SHAPES, **link)
    with pytest.raises(RankPatternError, match=message):
        transfer_times_s(pattern, SHAPES, capacity_bps=1.0)
