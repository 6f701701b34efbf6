"""The Markov decision process of IV-A1 as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from airlora.channel import (
    ChannelSettings,
    LinkProcess,
    LinkState,
    budget_params,
    communication_cost,
    project_ranks,
    transfer_time_s,
)
from airlora.env.links import Link
from airlora.env.objectives.analytic import AnalyticObjective
from airlora.env.objectives.base import Objective
from airlora.env.reward import deadline_penalty, reward
from airlora.env.settings import EnvSettings
from airlora.errors import ChannelError, RankPatternError, SettingsError
from airlora.observation import FloatArray, IntArray, Observation, ObservationSpec
from airlora.ranks import RankPattern, paper_num_params, params_per_rank
from airlora.text import TextComplexity

__all__ = ["ANALYTIC_CHANNEL", "RankAllocationEnv", "make_link", "make_spec"]

ANALYTIC_CHANNEL = ChannelSettings(bandwidth_hz=[3e5], deadline_mode="project")
"""The link of the default environment: at -5 to 15 dB it carries 28 to 365 of the 96 components of 129 numbers."""


def make_link(channel: ChannelSettings) -> LinkProcess:
    """Return the link that the settings describe; raises `ChannelError`."""
    return LinkProcess(
        snr_db=channel.snr_db,
        bandwidth_hz=channel.bandwidth_hz,
        fading=channel.fading,
        k_factor_db=channel.k_factor_db,
        doppler_hz=channel.doppler_hz,
        block_s=channel.block_s,
        rate=channel.rate,
        outage_epsilon=channel.outage_epsilon,
    )


def make_spec(channel: ChannelSettings, num_modules: int, r_max: int) -> ObservationSpec:
    """Return how observations of that link are normalised.

    The SNR range is that of the settings, widened to at least 20 dB around its middle; the bandwidth range likewise
    to a factor of ten: a policy trained on one link must not see a range of width zero.
    """
    middle_db = (min(channel.snr_db) + max(channel.snr_db)) / 2.0
    half_db = max(10.0, (max(channel.snr_db) - min(channel.snr_db)) / 2.0)
    low_hz, high_hz = min(channel.bandwidth_hz), max(channel.bandwidth_hz)
    widen = max(1.0, (10.0 / (high_hz / low_hz)) ** 0.5)
    return ObservationSpec(
        num_modules=num_modules,
        r_max=r_max,
        snr_db_range=(middle_db - half_db, middle_db + half_db),
        bandwidth_hz_range=(low_hz / widen, high_hz * widen),
    )


class RankAllocationEnv(gymnasium.Env[FloatArray, IntArray]):
    r"""Choose a rank per projection for the link and the text at hand.

    **Observation** (float32 [4 + num_modules]): SNR, bandwidth, lexical entropy, OOV rate and the ranks in force,
    normalised as `ObservationSpec` says; the same in units is `info["observation"]`.

    **Action** (int [num_modules], each 0 to r_max): the ranks to use. In mode `project` they are first cut to what the
    link carries before the deadline (Eq. 7).

    **Reward** (Eq. 10): $-U(r_t) - \lambda \eta(r_t)$, in mode `penalty` less `penalty_weight * max(0, eta - 1)`.

    **Episode**: T_env steps, then truncated; never terminated, since no state is final. The mean SNR and the bandwidth
    are drawn at reset, the fading goes on from step to step.

    **Info**: `loss` (nats), `cost` (eta), `params` (numbers sent, head included), `paper_params`, `seconds` (to send
    them), `violation` (seconds beyond the deadline, else 0), `ranks` (in force), `wanted` (the action), `snr_db`,
    `mean_snr_db`, `bandwidth_hz`, `capacity_bps`, `observation`.

    Args:
        objective: What ranks are worth; the default is `AnalyticObjective()`, whose optimum is known.
        channel: The link; the default is `ANALYTIC_CHANNEL`.
        env: T_env and lambda.
        initial_rank: Rank of every module at reset.
        hidden_size: d_h for the paper's count of numbers; the default is the smallest dimension of the modules.

    Raises:
        SettingsError: `initial_rank` is above r_max.
        ChannelError: The link's settings are not allowed, or in mode `project` its weakest does not carry the head.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own spelling)

    def __init__(
        self,
        objective: Objective | None = None,
        *,
        channel: ChannelSettings | None = None,
        env: EnvSettings | None = None,
        initial_rank: int = 1,
        hidden_size: int | None = None,
    ) -> None:
        self.objective: Objective = AnalyticObjective() if objective is None else objective
        self.channel = ANALYTIC_CHANNEL if channel is None else channel
        self.settings = EnvSettings() if env is None else env
        self.shapes = dict(self.objective.shapes)
        self.names = tuple(self.shapes)
        self.params_per_rank = np.asarray(params_per_rank(self.shapes), dtype=np.int64)
        if not 0 <= initial_rank <= self.objective.r_max:
            raise SettingsError.of("initial_rank", initial_rank, f"0 to {self.objective.r_max}")
        self.initial_rank = initial_rank
        self.hidden_size = hidden_size or min(shape.max_rank for shape in self.shapes.values())
        self.observation_spec = make_spec(self.channel, len(self.names), self.objective.r_max)
        self.observation_space = gymnasium.spaces.Box(
            -ObservationSpec.LIMIT, ObservationSpec.LIMIT, (self.observation_spec.size,), np.float32
        )
        self.action_space = gymnasium.spaces.MultiDiscrete(
            np.full(len(self.names), self.objective.r_max + 1), dtype=np.int64
        )
        self._link = make_link(self.channel)
        if self.channel.deadline_mode == "project":
            self._verify_head_fits()
        self._link_state: LinkState | None = None
        self._ranks = np.full(len(self.names), initial_rank, dtype=np.int64)
        self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Start an episode: draw the link and the text, set every rank to `initial_rank`.

        Args:
            seed: Seeds the environment's generator.
            options: None are known; anything else is refused.
        """
        super().reset(seed=seed)
        if options:
            raise SettingsError.of("options", options, "nothing: the link is set by the channel settings")
        self._step = 0
        self._ranks = np.full(len(self.names), self.initial_rank, dtype=np.int64)
        # Each part owns a generator: their states are saved apart, and one's draws never shift the other's.
        self._link_state = self._link.reset(self._fork_generator())
        self.objective.reset(self._fork_generator())
        observation = self.observe()
        return self.observation_spec.to_vector(observation), {"observation": observation}

    def observe(self) -> Observation:
        """Return the state in units; raises `SettingsError` before the first reset."""
        link = self._state()
        return self._observation(link, link.capacity_bps, self.objective.complexity(), self._ranks)

    def observe_link(self, link: Link, text: TextComplexity) -> Observation:
        """Return the state that a policy sees at the start of an episode on that link; raises `ChannelError`."""
        initial = np.full(len(self.names), self.initial_rank, dtype=np.int64)
        return self._observation(link, link.capacity_bps(self.channel), text, initial)

    def budget_params(self, capacity_bps: float) -> int:
        """Return how many adapter numbers a link carries before the deadline, the head taken off."""
        return budget_params(
            capacity_bps=capacity_bps,
            deadline_s=self.channel.deadline_s,
            bits_per_param=self.channel.bits_per_param,
            head_params=self.objective.head_params,
        )

    def step(self, action: IntArray) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Use the ranks for one step.

        Raises:
            RankPatternError: The action has another length or a rank outside 0 to r_max.
            TrainingError: The objective's loss is not finite.
        """
        link = self._state()
        wanted = self._verify(action)
        ranks = wanted
        if self.channel.deadline_mode == "project":
            ranks = project_ranks(wanted, self.params_per_rank, self.budget_params(link.capacity_bps))
        loss = self.objective.measure(ranks)
        info = self._account(ranks, link) | {"loss": loss, "wanted": wanted}
        value = reward(loss, info["cost"], self.settings.cost_weight)
        if self.channel.deadline_mode == "penalty":
            value -= deadline_penalty(info["cost"], self.channel.penalty_weight)
        self._ranks = ranks
        self._step += 1
        self._link_state = self._link.step()
        observation = self.observe()
        info["observation"] = observation
        truncated = self._step >= self.settings.episode_steps
        return self.observation_spec.to_vector(observation), value, False, truncated, info

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `step` depends on, for bit-equal resumption; the objective's own training aside."""
        return {
            "step": self._step,
            "ranks": self._ranks.tolist(),
            "generator": self.np_random.bit_generator.state,
            "link": self._link.state_dict(),
            "objective": self.objective.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.reset(seed=0)
        self._step = int(state["step"])
        self._ranks = np.asarray(state["ranks"], dtype=np.int64)
        self.objective.load_state_dict(state["objective"])
        self._link.load_state_dict(state["link"])
        self._link_state = self._link.state
        self.np_random.bit_generator.state = state["generator"]

    def _verify_head_fits(self) -> None:
        """Raise `ChannelError` if a link of the settings does not even carry the head, at its mean SNR."""
        channel, head = self.channel, self.objective.head_params
        weakest = Link(min(channel.snr_db), min(channel.bandwidth_hz))
        carried = budget_params(
            capacity_bps=weakest.capacity_bps(channel),
            deadline_s=channel.deadline_s,
            bits_per_param=channel.bits_per_param,
        )
        if carried < head:
            raise ChannelError(
                f"channel.snr_db = {weakest.snr_db:g}, channel.bandwidth_hz = {weakest.bandwidth_hz:g}: the link "
                f"carries {carried} numbers before the deadline of {channel.deadline_s:g} s, allowed is {head} or "
                "more, the size of the head, which always travels"
            )

    def _observation(
        self, link: Link | LinkState, capacity_bps: float, text: TextComplexity, ranks: IntArray
    ) -> Observation:
        return Observation(
            snr_db=link.snr_db,
            bandwidth_hz=link.bandwidth_hz,
            entropy_nats=text.entropy_nats,
            oov_rate=text.oov_rate,
            ranks=ranks.copy(),
            budget_params=self.budget_params(capacity_bps),
        )

    def _fork_generator(self) -> np.random.Generator:
        return np.random.default_rng(int(self.np_random.integers(2**63)))

    def _state(self) -> LinkState:
        if self._link_state is None:
            raise SettingsError("the environment has no state yet: call reset() first")
        return self._link_state

    def _verify(self, action: IntArray) -> IntArray:
        ranks = np.asarray(action)
        whole = ranks.shape == (len(self.names),) and np.issubdtype(ranks.dtype, np.integer)
        if not whole or ranks.min() < 0 or ranks.max() > self.objective.r_max:
            raise RankPatternError.of(
                "action", action, f"{len(self.names)} whole numbers from 0 to {self.objective.r_max}"
            )
        return ranks.astype(np.int64)

    def _account(self, ranks: IntArray, link: LinkState) -> dict[str, Any]:
        """Return what sending `ranks` over `link` takes."""
        pattern = RankPattern.from_ranks(self.names, ranks.tolist())
        params = pattern.num_params(self.shapes) + self.objective.head_params
        seconds = transfer_time_s(params, capacity_bps=link.capacity_bps, bits_per_param=self.channel.bits_per_param)
        cost = communication_cost(
            pattern,
            self.shapes,
            capacity_bps=link.capacity_bps,
            deadline_s=self.channel.deadline_s,
            bits_per_param=self.channel.bits_per_param,
            head_params=self.objective.head_params,
        )
        return {
            "cost": cost,
            "params": params,
            "paper_params": paper_num_params(ranks.tolist(), self.hidden_size),
            "seconds": seconds,
            "violation": max(0.0, seconds - self.channel.deadline_s),
            "ranks": ranks,
            "snr_db": link.snr_db,
            "mean_snr_db": link.mean_snr_db,
            "bandwidth_hz": link.bandwidth_hz,
            "capacity_bps": link.capacity_bps,
        }
