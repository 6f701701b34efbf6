import math

import numpy as np
import pytest

from airlora.channel import ChannelSettings, Link, RayleighFading, ergodic_bps
from airlora.env import ANALYTIC_CHANNEL, RankAllocationEnv
from airlora.policy import ConstantPolicy
from airlora.text import TextComplexity
from airlora.training import decide_for_link, problem_of, reference_link

TEXT = TextComplexity(entropy_nats=2.0, oov_rate=0.3)


def test_the_reference_link_is_the_middle() -> None:
    link = reference_link(ChannelSettings(snr_db=[15.0, -5.0, 5.0, 0.0, 10.0], bandwidth_hz=[1e5, 1e7]))
    assert link.snr_db == 5.0
    assert link.bandwidth_hz == pytest.approx(1e6)


def test_the_budget_is_what_the_deadline_allows() -> None:
    env = RankAllocationEnv()
    observation = env.observe_link(Link(0.0, 3e5), TEXT)
    # 300 kbit/s for 1 s at 32 bit: 9,375 numbers.
    assert observation.budget_params == 9375
    assert observation.entropy_nats == 2.0


def test_a_decision_is_cut_to_the_deadline_only_in_mode_project() -> None:
    for mode, expected in (("project", 28), ("price", 96)):
        env = RankAllocationEnv(channel=ANALYTIC_CHANNEL.model_copy(update={"deadline_mode": mode}))
        pattern = decide_for_link(ConstantPolicy(problem_of(env), rank=8), env, Link(-5.0, 3e5), TEXT)
        assert sum(pattern.ranks) == expected
        assert pattern.names == env.names


def test_the_capacity_follows_the_rate_model() -> None:
    channel = ChannelSettings(fading="rayleigh", rate="ergodic")
    assert Link(5.0, 1e6).capacity_bps(channel) == pytest.approx(ergodic_bps(5.0, 1e6, RayleighFading()))
    assert Link(0.0, 1e6).capacity_bps(ChannelSettings()) == pytest.approx(1e6 * math.log2(2))


def test_what_is_observed_is_at_the_start_of_an_episode() -> None:
    env = RankAllocationEnv(initial_rank=3)
    np.testing.assert_array_equal(env.observe_link(Link(0.0, 3e5), TEXT).ranks, np.full(12, 3))
