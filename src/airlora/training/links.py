"""What a trained policy decides for a link that somebody names."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import numpy as np

from airlora.channel import FadingModel, capacity_bps, project_ranks
from airlora.config import ChannelSettings
from airlora.env import RankAllocationEnv
from airlora.observation import Observation
from airlora.policy import RankPolicy
from airlora.ranks import RankPattern
from airlora.text import TextComplexity

__all__ = ["Link", "decide_for_link", "observe_link", "reference_link"]


@dataclass(frozen=True, slots=True)
class Link:
    """A link by its mean SNR and its bandwidth.

    Args:
        snr_db: Mean SNR, dB.
        bandwidth_hz: Bandwidth, Hz.
    """

    snr_db: float
    bandwidth_hz: float

    def capacity_bps(self, channel: ChannelSettings) -> float:
        """Return the rate of Eq. 5 by the settings' rate model, bit/s; raises `ChannelError`."""
        return capacity_bps(
            channel.rate,
            mean_snr_db=self.snr_db,
            bandwidth_hz=self.bandwidth_hz,
            fading=FadingModel(channel.fading, channel.k_factor_db),
            outage_epsilon=channel.outage_epsilon,
        )


def reference_link(channel: ChannelSettings) -> Link:
    """Return the middle of the settings' links: median SNR, median bandwidth (on a logarithmic scale)."""
    logs = [math.log(value) for value in channel.bandwidth_hz]
    return Link(statistics.median(channel.snr_db), math.exp(statistics.median(logs)))


def observe_link(env: RankAllocationEnv, link: Link, text: TextComplexity) -> Observation:
    """Return the state that a policy sees at the start of an episode on that link."""
    return Observation(
        snr_db=link.snr_db,
        bandwidth_hz=link.bandwidth_hz,
        entropy_nats=text.entropy_nats,
        oov_rate=text.oov_rate,
        ranks=np.full(len(env.names), env.initial_rank, dtype=np.int64),
        budget_params=env.budget_params(link.capacity_bps(env.channel)),
    )


def decide_for_link(policy: RankPolicy, env: RankAllocationEnv, link: Link, text: TextComplexity) -> RankPattern:
    """Return the pattern that the policy sends over that link, cut to its deadline in mode `project`."""
    observation = observe_link(env, link, text)
    ranks = policy.decide(observation)
    if env.channel.deadline_mode == "project":
        ranks = project_ranks(ranks, env.params_per_rank, observation.budget_params)
    return RankPattern.from_ranks(env.names, ranks.tolist())
