"""Regret of policies on synthetic problems, whose optimum is known exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from airlora.allocation import project_ranks
from airlora.bench.synthetic.objective import SyntheticObjective
from airlora.channel import ChannelSettings, Link, shannon_bps
from airlora.env import EnvSettings, RankAllocationEnv
from airlora.errors import SettingsError
from airlora.observation import IntArray, Observation
from airlora.text import TextComplexity

__all__ = ["Context", "Regret", "RegretEvaluator", "benchmark_env"]

_SNRS_DB = (-5.0, 0.0, 5.0, 10.0, 15.0)


@dataclass(frozen=True, slots=True)
class Context:
    """The link and the text of a decision.

    Args:
        snr_db: Mean SNR, dB.
        bandwidth_hz: Bandwidth, Hz.
        text: Lexical entropy and OOV rate of the text.
    """

    snr_db: float
    bandwidth_hz: float
    text: TextComplexity


@dataclass(frozen=True, slots=True)
class Regret:
    """Regret of a policy over all contexts.

    Args:
        value: `excess_nats / constant_excess_nats`: 0 at the optimum and 1 at the best constant rank of every context.
        excess_nats: Mean of J - J* over the contexts, nats.
        constant_excess_nats: Mean of J - J* of the best constant ranks over the contexts, nats.
        num_deadline_breaks: Number of contexts whose rank pattern exceeded the budget and was reduced.
        num_contexts: Number of contexts.
    """

    value: float
    excess_nats: float
    constant_excess_nats: float
    num_deadline_breaks: int
    num_contexts: int


@dataclass(frozen=True, slots=True)
class _Case:
    """A context with its observation, its cost per parameter and the objectives J* and J^const."""

    observation: Observation
    text: TextComplexity
    price_per_param: float
    best: float
    constant: float


def benchmark_env(
    objective: SyntheticObjective,
    *,
    cost_weight: float = 0.05,
    episode_steps: int = 16,
    budget_shares: tuple[float, float] = (0.03, 0.8),
) -> RankAllocationEnv:
    """Return the environment of the benchmark: five SNRs by three bandwidths, patterns reduced to the deadline.

    The bandwidths follow from `budget_shares`. There is no fading, so that a context has one budget.

    Args:
        objective: Objective with a known optimum.
        cost_weight: lambda of Eq. 9, >= 0. With a small value the deadline limits the ranks on most links, and the cost
            limits them on the strongest links.
        episode_steps: Number of steps of an episode, T_env.
        budget_shares: Budgets of the weakest and the strongest link, as shares of the parameters of all components,
            above 0 and up to 1.

    Raises:
        SettingsError: The shares are not allowed.
    """
    low, high = budget_shares
    if not 0.0 < low < high <= 1.0:
        raise SettingsError.of("budget_shares", budget_shares, "two numbers above 0 and up to 1, the lower first")
    settings = ChannelSettings(snr_db=list(_SNRS_DB), deadline_mode="project")
    bits = objective.max_params * settings.bits_per_param / settings.deadline_s
    low_hz, high_hz = (
        share * bits / shannon_bps(snr_db, 1.0) for share, snr_db in ((low, _SNRS_DB[0]), (high, _SNRS_DB[-1]))
    )
    bandwidths_hz = [float(value) for value in np.geomspace(low_hz, high_hz, 3)]
    return RankAllocationEnv(
        objective,
        channel=settings.model_copy(update={"bandwidth_hz": bandwidths_hz}),
        env=EnvSettings(cost_weight=cost_weight, episode_steps=episode_steps),
        hidden_size=objective.hidden_size,
    )


class RegretEvaluator:
    r"""Evaluate the regret of policies in an environment whose objective has a known optimum.

    $$\text{regret} = \frac{\sum_c J_c(\pi) - J_c^*}{\sum_c J_c^{const} - J_c^*}, \qquad J = U + \lambda\,\eta$$

    Notation: c contexts; J* lowest J within the budget; J^const lowest J of one rank for all modules within the
    budget; U loss without noise.

    Regret is a ratio of means. A mean of ratios would be dominated by the links where the best constant rank is nearly
    optimal, because their denominators are close to 0.

    Args:
        env: Environment with a `SyntheticObjective` and `deadline_mode="project"`.
        contexts: Contexts to average over. None means every SNR by every bandwidth by every text of the objective.

    Raises:
        SettingsError: The environment does not fit, there is no context, or the best constant rank is optimal in all
            contexts.
    """

    def __init__(self, env: RankAllocationEnv, contexts: Sequence[Context] | None = None) -> None:
        if not isinstance(env.objective, SyntheticObjective):
            raise SettingsError.of(
                "objective", type(env.objective).__name__, "SyntheticObjective, whose optimum is known"
            )
        if env.channel.deadline_mode != "project":
            raise SettingsError.of("deadline_mode", env.channel.deadline_mode, "'project': optima keep the deadline")
        self._env = env
        self._objective = env.objective
        if contexts is None:
            grid = itertools.product(env.channel.snr_db, env.channel.bandwidth_hz, env.objective.texts)
            contexts = [Context(*point) for point in grid]
        if not contexts:
            raise SettingsError("contexts: one or more are needed")
        self.contexts = tuple(contexts)
        self._cases = [self._prepare(context) for context in self.contexts]
        self._constant_excess = float(np.mean([case.constant - case.best for case in self._cases]))
        # Rounding errors alone make the sums of equal objectives differ by less.
        if self._constant_excess <= 1e-12:
            raise SettingsError("contexts: the best constant rank is optimal in all of them, regret has no scale")

    @property
    def observations(self) -> tuple[Observation, ...]:
        """Observation of a policy in each context, in order."""
        return tuple(case.observation for case in self._cases)

    def optimum(self, index: int) -> IntArray:
        """Return the optimal ranks of a context, int64 [num_modules]."""
        case = self._cases[index]
        return self._objective.optimum(case.text, case.observation.budget_params, case.price_per_param)

    def best_constant(self, index: int) -> IntArray:
        """Return the ranks of the best constant rank of a context, int64 [num_modules]."""
        case = self._cases[index]
        return self._objective.best_constant(case.text, case.observation.budget_params, case.price_per_param)

    def regret(self, decide: Callable[[Observation], IntArray]) -> Regret:
        """Return the regret of a policy. Patterns beyond their deadline are counted, and reduced as in the environment.

        Args:
            decide: Function from an observation to ranks, int64 [num_modules], such as `RankPolicy.decide`.

        Raises:
            RankPatternError: The ranks do not fit the modules.
        """
        excess, breaks = 0.0, 0
        for case in self._cases:
            wanted = decide(case.observation)
            ranks = project_ranks(wanted, self._env.params_per_rank, case.observation.budget_params)
            breaks += not np.array_equal(ranks, wanted)
            excess += self._cost(ranks, case.text, case.price_per_param) - case.best
        mean = excess / len(self._cases)
        return Regret(mean / self._constant_excess, mean, self._constant_excess, breaks, len(self._cases))

    def _prepare(self, context: Context) -> _Case:
        env, channel = self._env, self._env.channel
        link = Link(context.snr_db, context.bandwidth_hz)
        observation = env.observe_link(link, context.text)
        budget = observation.budget_params
        price = env.settings.cost_weight * channel.bits_per_param / (link.capacity_bps(channel) * channel.deadline_s)
        best = self._objective.optimum(context.text, budget, price)
        constant = self._objective.best_constant(context.text, budget, price)
        costs = [self._cost(ranks, context.text, price) for ranks in (best, constant)]
        return _Case(observation, context.text, price, *costs)

    def _cost(self, ranks: IntArray, text: TextComplexity, price_per_param: float) -> float:
        """Return J of Eq. 9, nats."""
        priced = price_per_param * float(np.dot(ranks, self._env.params_per_rank))
        return self._objective.loss(ranks, text) + priced
