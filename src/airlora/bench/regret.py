"""How far a policy is from the optimum, measured where the optimum is known exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from airlora.bench.synthetic.objective import SyntheticObjective
from airlora.channel import ChannelSettings, project_ranks, shannon_bps
from airlora.env import EnvSettings, Link, RankAllocationEnv
from airlora.errors import SettingsError
from airlora.observation import IntArray, Observation
from airlora.text import TextComplexity

__all__ = ["Context", "Judge", "Regret", "judge_env"]

_SNRS_DB = (-5.0, 0.0, 5.0, 10.0, 15.0)


@dataclass(frozen=True, slots=True)
class Context:
    """What a decision is made for.

    Args:
        snr_db: Mean SNR, dB.
        bandwidth_hz: Bandwidth, Hz.
        text: The text's state.
    """

    snr_db: float
    bandwidth_hz: float
    text: TextComplexity


@dataclass(frozen=True, slots=True)
class Regret:
    """How a policy did.

    Args:
        value: 0 at the optimum of every context, 1 at the best constant rank of every context; more is worse.
        excess_nats: Mean of J - J* over the contexts.
        constant_excess_nats: The same of the best constants; `value` is the one by the other.
        num_deadline_breaks: Contexts whose wanted pattern did not fit and was cut.
        num_contexts: How many contexts there were.
    """

    value: float
    excess_nats: float
    constant_excess_nats: float
    num_deadline_breaks: int
    num_contexts: int


@dataclass(frozen=True, slots=True)
class _Case:
    """A context with everything that does not depend on the policy."""

    observation: Observation
    text: TextComplexity
    price_per_param: float
    best: float
    constant: float


def judge_env(
    objective: SyntheticObjective,
    *,
    cost_weight: float = 0.05,
    episode_steps: int = 16,
    budget_shares: tuple[float, float] = (0.03, 0.8),
) -> RankAllocationEnv:
    """Return the environment that policies are judged in: five SNRs by three bandwidths, cut to the deadline.

    The bandwidths are such that the weakest link carries the first share of all components before the deadline and
    the strongest the second.  There is no fading, so that the budget of a context is one number.

    Args:
        objective: What ranks are worth.
        cost_weight: lambda of Eq. 9, >= 0. Small: the deadline binds on most links, the price on the strongest.
        episode_steps: T_env.
        budget_shares: Budgets of the weakest and the strongest link, as shares of all components, 0 to 1.

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


class Judge:
    r"""Measures the regret of policies in an environment whose objective has a known optimum.

    $$\text{regret} = \frac{\sum_c J_c(\pi) - J_c^*}{\sum_c J_c^{const} - J_c^*}, \qquad J = U + \lambda\,\eta$$

    Notation: c contexts; J* the least J within the budget; J^const the least J of one rank for all modules within the
    budget. Losses are those without noise.

    It is a ratio of means, not a mean of ratios: on some links the best constant is nearly optimal, and there a
    difference that matters to nobody would be divided by almost nothing and drown all other contexts. This way every
    context weighs by the nats at stake.

    Args:
        env: An environment with a `SyntheticObjective` and `deadline_mode="project"`.
        contexts: The default is every SNR by every bandwidth by every text of the objective.

    Raises:
        SettingsError: The environment does not fit, there is no context, or constants are optimal in all of them.
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
        # Less than rounding can make of two equal sums.
        if self._constant_excess <= 1e-12:
            raise SettingsError("contexts: the best constant rank is optimal in all of them, regret has no scale")

    @property
    def observations(self) -> tuple[Observation, ...]:
        """What a policy sees in each context, in order."""
        return tuple(case.observation for case in self._cases)

    def optimum(self, index: int) -> IntArray:
        """Return the best ranks of a context."""
        case = self._cases[index]
        return self._objective.optimum(case.text, case.observation.budget_params, case.price_per_param)

    def best_constant(self, index: int) -> IntArray:
        """Return the best pattern of one rank for all modules in a context."""
        case = self._cases[index]
        return self._objective.best_constant(case.text, case.observation.budget_params, case.price_per_param)

    def regret(self, decide: Callable[[Observation], IntArray]) -> Regret:
        """Return the regret of a policy; a pattern beyond its deadline is cut as the environment cuts it, and counted.

        Args:
            decide: Returns ranks for an observation, int64 [num_modules], such as `RankPolicy.decide`.

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
        """Return J, nats; the price of a number is lambda times its share of the deadline."""
        priced = price_per_param * float(np.dot(ranks, self._env.params_per_rank))
        return self._objective.loss(ranks, text) + priced
