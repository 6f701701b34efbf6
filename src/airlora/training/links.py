"""What a trained policy decides for a link that somebody names."""

from __future__ import annotations

import math
import statistics

from airlora.allocation import project_ranks
from airlora.channel import ChannelSettings, Link
from airlora.env import RankAllocationEnv
from airlora.policy import RankPolicy
from airlora.ranks import RankPattern
from airlora.text import TextComplexity

__all__ = ["decide_for_link", "reference_link"]


def reference_link(channel: ChannelSettings) -> Link:
    """Return the middle of the settings' links: median SNR, median bandwidth (on a logarithmic scale)."""
    logs = [math.log(value) for value in channel.bandwidth_hz]
    return Link(statistics.median(channel.snr_db), math.exp(statistics.median(logs)))


def decide_for_link(policy: RankPolicy, env: RankAllocationEnv, link: Link, text: TextComplexity) -> RankPattern:
    """Return the pattern that the policy sends over that link, cut to its deadline in mode `project`."""
    observation = env.observe_link(link, text)
    ranks = policy.decide(observation)
    if env.channel.deadline_mode == "project":
        ranks = project_ranks(ranks, env.params_per_rank, observation.budget_params)
    return RankPattern.from_ranks(env.names, ranks.tolist())
