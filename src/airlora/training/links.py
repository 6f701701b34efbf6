"""Reference link of a run, and the decision of a policy for a given link."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

from airlora.allocation import project_ranks
from airlora.channel import ChannelSettings, Link
from airlora.env import RankAllocationEnv
from airlora.policy import RankPolicy
from airlora.ranks import RankPattern
from airlora.text import TextComplexity

__all__ = ["decide_for_link", "reference_link"]


def reference_link(channel: ChannelSettings) -> Link:
    """Return the link with the median SNR and the median bandwidth, on a logarithmic scale, of the settings."""
    logs = [math.log(value) for value in channel.bandwidth_hz]
    return Link(statistics.median(channel.snr_db), math.exp(statistics.median(logs)))


def decide_for_link(policy: RankPolicy, env: RankAllocationEnv, link: Link, text: TextComplexity) -> RankPattern:
    """Return the rank pattern that a policy sends over a link.

    The policy decides `env.decision_steps` times in a row. The first decision sees the ranks at the start of an
    episode, and every other one those of the decision before, as in the decision process ($r_{t+1} = a_t$). The last
    one is sent.

    With `channel.deadline_mode = "project"` the ranks are projected onto the link's deadline.

    Args:
        policy: Policy that decides.
        env: Decision problem of the adapter.
        link: Mean SNR and bandwidth.
        text: Mean text features of the data on which the adapter will be used.
    """
    observation = env.observe_link(link, text)
    for _ in range(env.settings.decision_steps):
        ranks = policy.decide(observation)
        if env.channel.deadline_mode == "project":
            ranks = project_ranks(ranks, env.params_per_rank, observation.budget_params)
        observation = replace(observation, ranks=ranks)
    return RankPattern.from_ranks(env.names, observation.ranks.tolist())
