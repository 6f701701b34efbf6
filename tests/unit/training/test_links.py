import math

import numpy as np
import pytest

from airlora.channel import ChannelSettings, Link, RayleighFading, ergodic_bps
from airlora.env import ANALYTIC_CHANNEL, EnvSettings, RankAllocationEnv
from airlora.observation import IntArray, Observation
from airlora.policy import ConstantPolicy
from airlora.text import TextComplexity
from airlora.training import decide_for_link, problem_of, reference_link

TEXT = TextComplexity(entropy_nats=2.0, oov_rate=0.3)


def test_the_reference_link_has_median_snr_and_bandwidth() -> None:
    link = reference_link(ChannelSettings(snr_db=[15.0, -5.0, 5.0, 0.0, 10.0], bandwidth_hz=[1e5, 1e7]))
    assert link.snr_db == 5.0
    assert link.bandwidth_hz == pytest.approx(1e6)


def test_the_budget_is_the_number_of_parameters_sent_by_the_deadline() -> None:
    env = RankAllocationEnv()
    observation = env.observe_link(Link(0.0, 3e5), TEXT)
    # 300 kbit/s for 1 s at 32 bit: 9,375 numbers.
    assert observation.budget_params == 9375
    assert observation.entropy_nats == 2.0


def test_a_decision_is_projected_onto_the_deadline_in_mode_project_only() -> None:
    for mode, expected in (("project", 28), ("price", 96)):
        env = RankAllocationEnv(channel=ANALYTIC_CHANNEL.model_copy(update={"deadline_mode": mode}))
        pattern = decide_for_link(ConstantPolicy(problem_of(env), rank=8), env, Link(-5.0, 3e5), TEXT)
        assert sum(pattern.ranks) == expected
        assert pattern.names == env.names


def test_the_capacity_follows_the_rate_model() -> None:
    channel = ChannelSettings(fading="rayleigh", rate="ergodic")
    assert Link(5.0, 1e6).capacity_bps(channel) == pytest.approx(ergodic_bps(5.0, 1e6, RayleighFading()))
    assert Link(0.0, 1e6).capacity_bps(ChannelSettings()) == pytest.approx(1e6 * math.log2(2))


def test_the_observation_is_that_of_the_start_of_an_episode() -> None:
    env = RankAllocationEnv(initial_rank=3)
    np.testing.assert_array_equal(env.observe_link(Link(0.0, 3e5), TEXT).ranks, np.full(12, 3))


class Climber:
    """A policy that wants two more components in every module than the observation has, and records what it saw."""

    name = "climber"

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def decide(self, observation: Observation) -> IntArray:
        self.seen.append(observation.ranks.tolist())
        return np.minimum(observation.ranks + 2, 8)


def test_every_decision_sees_the_ranks_of_the_one_before() -> None:
    policy = Climber()
    channel = ANALYTIC_CHANNEL.model_copy(update={"deadline_mode": "price"})
    env = RankAllocationEnv(channel=channel, env=EnvSettings(decision_steps=3), initial_rank=1)
    pattern = decide_for_link(policy, env, Link(0.0, 3e5), TEXT)
    assert policy.seen == [[1] * 12, [3] * 12, [5] * 12]
    assert pattern.ranks == (7,) * 12


def test_a_later_decision_sees_the_ranks_after_the_projection() -> None:
    policy = Climber()
    env = RankAllocationEnv(env=EnvSettings(decision_steps=3), initial_rank=1)
    pattern = decide_for_link(policy, env, Link(-5.0, 3e5), TEXT)
    # The link carries 28 components; three in every module would be 36.
    assert [sum(ranks) for ranks in policy.seen] == [12, 28, 28]
    assert sum(pattern.ranks) == 28
