"""The Markov decision process of rank allocation (IV-A1) as a Gymnasium environment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from airlora.allocation import project_ranks
from airlora.channel import (
    ChannelSettings,
    Link,
    LinkModel,
    LinkState,
    budget_params,
    make_link,
    transfer_time_s,
)
from airlora.env.objectives.analytic import AnalyticObjective
from airlora.env.objectives.base import Objective
from airlora.env.rewards import deadline_penalty, reward
from airlora.env.settings import EnvSettings
from airlora.errors import ChannelError, RankPatternError, SettingsError
from airlora.observation import FloatArray, IntArray, Observation, ObservationSpec
from airlora.ranks import RankPattern, paper_num_params, params_per_rank
from airlora.text import TextComplexity

__all__ = ["ANALYTIC_CHANNEL", "RankAllocationEnv", "make_spec"]

ANALYTIC_CHANNEL = ChannelSettings(bandwidth_hz=[3e5], deadline_mode="project")
"""Settings of the default environment's link. It carries 28 of the 96 components at -5 dB, and all of them at 5 dB."""


def make_spec(channel: ChannelSettings, num_modules: int, r_max: int) -> ObservationSpec:
    """Return the ranges that normalise the observations of a link.

    The SNR range of the settings is widened to at least 20 dB around its middle. The bandwidth range is widened to at
    least a factor of ten. Settings with a single link therefore also give a range above zero.

    Args:
        channel: Settings of the link.
        num_modules: Number of adapted modules.
        r_max: Largest rank of a module.
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
    r"""Decision problem of choosing a rank per adapted module for a link and a text.

    **Observation** (float32 [4 + num_modules]): SNR, bandwidth, lexical entropy, OOV rate and current ranks, normalised
    by `ObservationSpec`. `info["observation"]` holds the same quantities in their units.

    **Action** (int [num_modules], each 0 to r_max): the wanted ranks. In mode `project`, `project_ranks` reduces them
    to the parameters that the link carries before the deadline (Eq. 7).

    **Reward** (Eq. 10): $-U(r_t) - \lambda \eta(r_t)$. In mode `penalty`, `penalty_weight * max(0, eta - 1)` is
    subtracted.

    **Trend**: losses may fall by themselves while the model is fine-tuned. With N = `env.reward_trend_steps` > 0 the
    reward contains $U(r_t) - m_t$ instead of $U(r_t)$, where $m_{t+1} = m_t + (U(r_t) - m_t) / N$ and $m_0 = U(r_0)$.
    Rewards of early and late steps are then comparable. The trend continues from episode to episode, and starts anew at
    a reset with a seed.

    **Episode**: T_env steps, then truncated. An episode never terminates, because no state is final. The link process
    draws mean SNR and bandwidth at reset and moves the fading from step to step.

    **Info** of a step:

    | key | value |
    |---|---|
    | `plain_reward` | reward without the trend |
    | `loss` | loss U, nats |
    | `cost` | communication cost eta |
    | `params` | parameters sent, including the head |
    | `paper_params` | parameters by the paper's count, which takes every module as square |
    | `seconds` | transfer time, s |
    | `violation` | transfer time beyond the deadline, s, or 0 |
    | `ranks` | ranks that were used, after the projection |
    | `wanted` | ranks of the action |
    | `snr_db`, `mean_snr_db`, `bandwidth_hz`, `capacity_bps` | state of the link |
    | `observation` | next observation, in units |

    Args:
        objective: Loss of the ranks, any class with the members of `Objective`. None takes `AnalyticObjective()`,
            whose optimum is known.
        channel: Settings of the link, its deadline, and the ranges that normalise the observation. None takes
            `ANALYTIC_CHANNEL`.
        link: Link process, any class with the members of `LinkModel`. None makes the one that `channel` describes.
        env: Settings of the decision problem, such as T_env and lambda.
        initial_rank: Rank of every module at reset.
        hidden_size: Hidden size d_h for `paper_params`. None takes the smallest dimension of the modules.

    Raises:
        SettingsError: `initial_rank` is above r_max, or `channel.process` is not registered.
        ChannelError: A setting of the link is not allowed. In mode `project`, also if the weakest link does not carry
            the head before the deadline.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (declared so by Gymnasium)

    def __init__(
        self,
        objective: Objective | None = None,
        *,
        channel: ChannelSettings | None = None,
        link: LinkModel | None = None,
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
        self._link = make_link(self.channel) if link is None else link
        if self.channel.deadline_mode == "project":
            self._verify_head_fits()
        self._link_state: LinkState | None = None
        self._ranks = np.full(len(self.names), initial_rank, dtype=np.int64)
        self._step = 0
        self._trend: float | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Start an episode: draw a link and a text, and set every rank to `initial_rank`.

        Args:
            seed: Seed of the environment's generator. None continues with the current generator.
            options: Options of Gymnasium, which must be empty.

        Raises:
            SettingsError: `options` is not empty.
        """
        super().reset(seed=seed)
        if options:
            raise SettingsError.of("options", options, "none; the channel settings describe the link")
        self._step = 0
        if seed is not None:
            self._trend = None
        self._ranks = np.full(len(self.names), self.initial_rank, dtype=np.int64)
        # Link and objective have a generator each: draws of one do not change those of the other.
        self._link_state = self._link.reset(self._fork_generator())
        self.objective.reset(self._fork_generator())
        observation = self.observe()
        return self.observation_spec.to_vector(observation), {"observation": observation}

    def observe(self) -> Observation:
        """Return the current state in units; raises `SettingsError` before the first reset."""
        link = self._state()
        return self._observation(link, link.capacity_bps, self.objective.complexity(), self._ranks)

    def observe_link(self, link: Link, text: TextComplexity) -> Observation:
        """Return the state that a policy sees at the start of an episode, in units.

        Args:
            link: Link of the episode.
            text: Lexical entropy and OOV rate of the first step.

        Raises:
            ChannelError: A value of the link is out of range.
        """
        initial = np.full(len(self.names), self.initial_rank, dtype=np.int64)
        return self._observation(link, self.capacity_bps(link), text, initial)

    def capacity_bps(self, link: Link) -> float:
        """Return the rate of a link by the environment's link process, bit/s."""
        return self._link.capacity_bps(link)

    def budget_params(self, capacity_bps: float) -> int:
        """Return the number of adapter parameters that a link carries before the deadline, beside the head.

        Args:
            capacity_bps: Rate of the link, bit/s, > 0.
        """
        return budget_params(
            capacity_bps=capacity_bps,
            deadline_s=self.channel.deadline_s,
            bits_per_param=self.channel.bits_per_param,
            head_params=self.objective.head_params,
        )

    def step(self, action: IntArray) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Measure the loss of the ranks on the current text, and move link and text to the next step.

        Args:
            action: Wanted rank of each module, int [num_modules].

        Raises:
            RankPatternError: The action has a wrong shape or type, or a rank outside 0 to r_max.
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
        info["plain_reward"] = value
        value += self._follow_trend(loss)
        self._ranks = ranks
        self._step += 1
        self._link_state = self._link.step()
        observation = self.observe()
        info["observation"] = observation
        truncated = self._step >= self.settings.episode_steps
        return self.observation_spec.to_vector(observation), value, False, truncated, info

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a bit-equal continuation, except for the training state of a `LiveObjective`."""
        return {
            "step": self._step,
            "ranks": self._ranks.tolist(),
            "trend": self._trend,
            "generator": self.np_random.bit_generator.state,
            "link": self._link.state_dict(),
            "objective": self.objective.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict` of an environment with the same settings."""
        self.reset(seed=0)
        self._step = int(state["step"])
        self._ranks = np.asarray(state["ranks"], dtype=np.int64)
        # States without the key were saved when there was no trend.
        self._trend = state.get("trend")
        self.objective.load_state_dict(state["objective"])
        self._link.load_state_dict(state["link"])
        self._link_state = self._link.state
        self.np_random.bit_generator.state = state["generator"]

    def _follow_trend(self, loss: float) -> float:
        """Return the trend of the earlier losses, and move it towards a new loss; 0 without `reward_trend_steps`."""
        if self.settings.reward_trend_steps == 0:
            return 0.0
        trend = loss if self._trend is None else self._trend
        self._trend = trend + (loss - trend) / self.settings.reward_trend_steps
        return trend

    def _verify_head_fits(self) -> None:
        """Raise `ChannelError` if the weakest link of the settings does not carry the head at its mean SNR."""
        channel, head = self.channel, self.objective.head_params
        weakest = Link(min(channel.snr_db), min(channel.bandwidth_hz))
        carried = budget_params(
            capacity_bps=self.capacity_bps(weakest),
            deadline_s=channel.deadline_s,
            bits_per_param=channel.bits_per_param,
        )
        if carried < head:
            raise ChannelError(
                f"channel.snr_db = {weakest.snr_db:g}, channel.bandwidth_hz = {weakest.bandwidth_hz:g}: the link "
                f"carries {carried} parameters before the deadline of {channel.deadline_s:g} s, allowed is {head} or "
                "more, the size of the classification head, which is always sent; set a larger bandwidth, such as "
                f"--set 'channel.bandwidth_hz=[{_rounded_up(2 * head / max(1, carried) * weakest.bandwidth_hz)}]'"
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
        pattern = RankPattern.from_ranks(self.names, ranks.tolist())
        params = pattern.num_params(self.shapes) + self.objective.head_params
        seconds = transfer_time_s(params, capacity_bps=link.capacity_bps, bits_per_param=self.channel.bits_per_param)
        return {
            "cost": seconds / self.channel.deadline_s,  # Eq. 8
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


def _rounded_up(value: float) -> str:
    """Return a number of at least this value with two digits."""
    digits = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / digits) * digits:g}"
