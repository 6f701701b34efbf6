"""A synthetic loss with a known optimum, independent of the models that policies fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from airlora.bench.synthetic.landscapes import ROLES, UNITS_PER_RANK, Interacting, Landscape, Separable
from airlora.bench.synthetic.max_plus import Curve, Floats
from airlora.errors import RankPatternError, SettingsError
from airlora.observation import IntArray
from airlora.ranks import ModuleShape
from airlora.text import TextComplexity

__all__ = ["SyntheticObjective"]

_MAX_CURVES = 64
"""Number of texts whose curves are cached. A curve takes some hundred kilobytes with 24 layers."""

_SENSITIVITY_STD = 0.2


class SyntheticObjective:
    r"""A loss with heavy-tailed gains of modules, separable or interacting, on a fixed set of texts.

    $$U(r, x) = u_0 + (1 + \rho)\,\big(V(\infty, x) - V(r, x)\big)$$

    Notation: U loss; u_0 `floor_nats`; V value of the landscape (`Separable` or `Interacting`); rho OOV rate of the
    text. Harder text raises the gain of every component.

    A text x also scales each leaf of the landscape by $t = e^{s_H z_H + s_\rho z_\rho}$. z is the standardised entropy
    and OOV rate, and s is normal with standard deviation 0.2. A policy that uses the text therefore gains little.

    Each layer has the six projections. With hidden size d, attention is d - 1 wide and the feed-forward part 4d - 1. A
    component of q, k, v or o then has 2d parameters, and one of fc1 or fc2 has 5d. Dynamic programming over units of d
    parameters is therefore exact.

    Args:
        num_layers: Number of layers L, >= 1. 6 layers have 36 modules, 24 layers have 144.
        r_max: Largest rank, 1 to d - 1.
        interacting: Whether the gain of a module depends on the ranks of others. Then neither greedy filling nor
            concave curves per module are exact.
        noise_std: Standard deviation of the normal error of a measurement, as a share of `drop_nats`, >= 0.
        num_texts: Number of fixed texts, >= 1. One is drawn per step.
        hidden_size: Hidden size d, >= 2.
        seed: Seed of the landscape and the texts. Two objectives with the same seed are the same problem.

    Raises:
        RankPatternError: r_max is out of range.
        SettingsError: Another number is out of range.

    Examples:
        >>> objective = SyntheticObjective(num_layers=1, r_max=4)
        >>> objective.optimum(objective.texts[0], budget_params=1000, price_per_param=0.0)
        array([2, 0, 2, 1, 0, 1])
    """

    def __init__(
        self,
        num_layers: int = 6,
        r_max: int = 16,
        interacting: bool = False,
        noise_std: float = 0.005,
        num_texts: int = 16,
        hidden_size: int = 64,
        seed: int = 0,
    ) -> None:
        for name, value, least in (
            ("num_layers", num_layers, 1),
            ("num_texts", num_texts, 1),
            ("hidden_size", hidden_size, 2),
        ):
            if value < least:
                raise SettingsError.of(name, value, f"a whole number, {least} or more")
        if not 1 <= r_max <= hidden_size - 1:
            raise RankPatternError.of("r_max", r_max, f"1 to {hidden_size - 1}, one less than hidden_size")
        if not (math.isfinite(noise_std) and noise_std >= 0.0):
            raise SettingsError.of("noise_std", noise_std, "a number, 0 or more")
        attention = ModuleShape(hidden_size, hidden_size - 1)
        feed_forward = ModuleShape(hidden_size, 4 * hidden_size - 1)
        self._shapes = {
            f"layers.{layer}.{role}": feed_forward if role.startswith("fc") else attention
            for layer in range(num_layers)
            for role in ROLES
        }
        self._r_max = r_max
        self._units = np.asarray(UNITS_PER_RANK * num_layers, dtype=np.int64)
        self.hidden_size = hidden_size
        self.interacting = interacting
        self.floor_nats = 0.2
        # Landscape, sensitivities and texts have a generator each, so that `num_texts` does not change the landscape.
        generators = np.random.default_rng(seed).spawn(3)
        kind = Interacting if interacting else Separable
        self.landscape: Landscape = kind(num_layers, r_max, generators[0])
        self._sensitivities = _SENSITIVITY_STD * generators[1].standard_normal((self.landscape.num_leaves, 2))
        self.texts = tuple(
            TextComplexity(
                entropy_nats=float(generators[2].uniform(1.5, 3.5)), oov_rate=float(generators[2].beta(2.0, 6.0))
            )
            for _ in range(num_texts)
        )
        self._curves: dict[TextComplexity, Curve] = {}
        none, full = np.zeros_like(self._units), np.full_like(self._units, r_max)
        self.drop_nats = float(np.mean([self.loss(none, text) - self.loss(full, text) for text in self.texts]))
        self.noise_std = noise_std
        self._generator = np.random.default_rng(seed)
        self._index = 0

    @property
    def shapes(self) -> Mapping[str, ModuleShape]:
        """Shapes of the modules by name, in order."""
        return self._shapes

    @property
    def r_max(self) -> int:
        """Largest rank of a module."""
        return self._r_max

    @property
    def head_params(self) -> int:
        """Parameters of the classification head: 0."""
        return 0

    @property
    def max_params(self) -> int:
        """Parameters of all modules at r_max."""
        return int(self._units.sum()) * self._r_max * self.hidden_size

    def reset(self, generator: np.random.Generator) -> None:
        """Start an episode, keep its generator, and draw its first text."""
        self._generator = generator
        self._draw_text()

    def complexity(self) -> TextComplexity:
        """Return the entropy and OOV rate of the text of the next `measure`."""
        return self.texts[self._index]

    def loss(self, ranks: IntArray, text: TextComplexity) -> float:
        """Return U(r, x) without noise, nats.

        Raises:
            RankPatternError: The ranks are not whole numbers from 0 to r_max, one per module.
        """
        ranks = np.asarray(ranks)
        whole = ranks.shape == self._units.shape and np.issubdtype(ranks.dtype, np.integer)
        if not whole or ranks.min() < 0 or ranks.max() > self._r_max:
            raise RankPatternError.of("ranks", ranks, f"{len(self._units)} whole numbers from 0 to {self._r_max}")
        factors = self._factors(text)
        missing = self.landscape.limit(factors) - self.landscape.value(ranks, factors)
        return self.floor_nats + (1.0 + text.oov_rate) * missing

    def measure(self, ranks: IntArray) -> float:
        """Return U(r) of the step's text with measurement noise, nats, and draw the next text."""
        loss = self.loss(ranks, self.complexity())
        if self.noise_std > 0.0:
            loss += self.noise_std * self.drop_nats * float(self._generator.standard_normal())
        self._draw_text()
        return loss

    def optimum(self, text: TextComplexity, budget_params: int, price_per_param: float) -> IntArray:
        r"""Return the ranks with the lowest $U(r, x) + p \sum_m r_m c_m$ within the budget, exactly.

        Notation: p price_per_param; c_m parameters in a component of module m.

        The best value within u units is known for every u, so that the price needs no further search.

        Args:
            text: Text x.
            budget_params: Largest number of parameters of the pattern, >= 0.
            price_per_param: lambda times the share of the deadline that one parameter takes, nats, >= 0.

        Returns:
            Ranks, int64 [num_modules].

        Raises:
            SettingsError: The budget or the price is negative or not a number.
        """
        _verify_budget(budget_params, price_per_param)
        curve = self._curve(text)
        units = np.arange(min(budget_params // self.hidden_size, len(curve.values) - 1) + 1)
        gain = (1.0 + text.oov_rate) * curve.values[units] - price_per_param * self.hidden_size * units
        return curve.ranks_at(int(np.argmax(gain))).copy()

    def best_constant(self, text: TextComplexity, budget_params: int, price_per_param: float) -> IntArray:
        """Return the best constant rank within the budget, int64 [num_modules]; arguments as for `optimum`."""
        _verify_budget(budget_params, price_per_param)
        params_of_one = self.max_params // self._r_max
        ranks = range(min(self._r_max, budget_params // params_of_one) + 1)
        patterns = [np.full_like(self._units, rank) for rank in ranks]
        costs = [self.loss(p, text) + price_per_param * params_of_one * rank for rank, p in enumerate(patterns)]
        return patterns[int(np.argmin(costs))]

    def state_dict(self) -> dict[str, Any]:
        """Return the index of the next text and the state of the generator."""
        return {"index": self._index, "generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the value of `state_dict`."""
        self._index = int(state["index"])
        self._generator.bit_generator.state = state["generator"]

    def _factors(self, text: TextComplexity) -> Floats:
        """Return the factors t of a text, float [num_leaves]."""
        # Mean and standard deviation of the distributions of texts: uniform(1.5, 3.5) and beta(2, 6).
        standard = [(text.entropy_nats - 2.5) / math.sqrt(1.0 / 3.0), (text.oov_rate - 0.25) / math.sqrt(1.0 / 48.0)]
        factors: Floats = np.exp(self._sensitivities @ np.asarray(standard))
        return factors

    def _curve(self, text: TextComplexity) -> Curve:
        if text not in self._curves:
            if len(self._curves) >= _MAX_CURVES:
                del self._curves[next(iter(self._curves))]
            self._curves[text] = self.landscape.curve(self._factors(text))
        return self._curves[text]

    def _draw_text(self) -> None:
        self._index = int(self._generator.integers(len(self.texts)))


def _verify_budget(budget_params: int, price_per_param: float) -> None:
    if budget_params < 0:
        raise SettingsError.of("budget_params", budget_params, "a whole number, 0 or more")
    if not (math.isfinite(price_per_param) and price_per_param >= 0.0):
        raise SettingsError.of("price_per_param", price_per_param, "a number, 0 or more")
