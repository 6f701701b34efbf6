"""The problems that policies are judged on."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from airlora.bench.regret import Context, judge_env
from airlora.bench.synthetic.objective import SyntheticObjective
from airlora.env import RankAllocationEnv
from airlora.observation import IntArray, Observation
from airlora.policy import RankPolicy

__all__ = ["PROBLEMS", "BenchProblem", "stale_break_rate", "unseen_contexts"]


@dataclass(frozen=True)
class BenchProblem:
    """A synthetic problem whose optimum is known.

    Args:
        title: For tables.
        num_layers: L; six modules each.
        interacting: Whether modules interact.
        noise_std: Of a measured loss, as a share of the total drop.
    """

    title: str
    num_layers: int
    interacting: bool
    noise_std: float = 0.005

    @property
    def num_modules(self) -> int:
        """6L."""
        return 6 * self.num_layers

    def make(self, seed: int) -> RankAllocationEnv:
        """Return its environment; the seed draws the landscape, the texts and the noise."""
        objective = SyntheticObjective(
            num_layers=self.num_layers, interacting=self.interacting, noise_std=self.noise_std, seed=seed
        )
        return judge_env(objective)


PROBLEMS: Mapping[str, BenchProblem] = {
    "separable-36": BenchProblem("36 modules, separable", 6, interacting=False),
    "noisy-36": BenchProblem("36 modules, separable, noise of 1.5 %", 6, interacting=False, noise_std=0.015),
    "interacting-36": BenchProblem("36 modules, interacting", 6, interacting=True),
    "separable-144": BenchProblem("144 modules, separable", 24, interacting=False),
}


def unseen_contexts(env: RankAllocationEnv) -> list[Context]:
    """Return links that were never met: between all SNRs and 2 dB beyond them, between all bandwidths and beyond.

    With the first text of the objective only: texts are the known ones.
    """
    objective = env.objective
    if not isinstance(objective, SyntheticObjective):
        raise TypeError(f"objective is a {type(objective).__name__}: allowed is SyntheticObjective")
    snrs = sorted(env.channel.snr_db)
    snrs_db = [snrs[0] - 2.0, *((low + high) / 2.0 for low, high in itertools.pairwise(snrs)), snrs[-1] + 2.0]
    bands = sorted(env.channel.bandwidth_hz)
    between = [float(np.sqrt(low * high)) for low, high in itertools.pairwise(bands)]
    bandwidths_hz = [bands[0] / 1.2, *between, bands[-1] * 1.2]
    return [Context(snr_db, hz, objective.texts[0]) for snr_db in snrs_db for hz in bandwidths_hz]


def stale_break_rate(policy: RankPolicy, env: RankAllocationEnv, *, correlation_hz: float, num_steps: int) -> float:
    """Return how often a pattern breaks Eq. 7 when it was chosen for the block before the one it is sent in.

    Rayleigh fading, correlated from block to block by the Doppler frequency.

    Args:
        policy: What decides.
        env: Whose objective and links are used.
        correlation_hz: Doppler frequency, Hz, for blocks of 1 s.
        num_steps: How many decisions.
    """
    channel = env.channel.model_copy(
        update={"fading": "rayleigh", "doppler_hz": correlation_hz, "block_s": 1.0, "deadline_mode": "price"}
    )
    fading = RankAllocationEnv(env.objective, channel=channel, env=env.settings, hidden_size=env.hidden_size)
    _, info = fading.reset(seed=0)
    breaks = 0
    for _ in range(num_steps):
        seen: Observation = info["observation"]
        wanted: IntArray = policy.decide(seen)
        # One block passes between the decision and its transfer.
        _, _, _, truncated, info = fading.step(wanted)
        breaks += int(int(wanted @ env.params_per_rank) > info["observation"].budget_params)
        if truncated:
            _, info = fading.reset()
    return breaks / num_steps
