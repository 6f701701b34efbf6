"""A loss in closed form with a known optimum, the default of `airlora/RankAllocation-v0`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from airlora.errors import RankPatternError
from airlora.observation import FloatArray, IntArray
from airlora.ranks import ModuleShape
from airlora.text import TextComplexity

__all__ = ["AnalyticObjective"]

_ROLES = ("q", "k", "v", "o", "fc1", "fc2")


class AnalyticObjective:
    r"""Separable loss of modules of one size, each exponential in its rank.

    $$U(r) = u_0 + (1 + \rho) \sum_m w_m\,e^{-r_m/\tau_m}$$

    Notation: u_0 floor; w_m weights; tau_m decays; rho the OOV rate of the step's text. A higher OOV rate raises the
    gain of every component, so that the best ranks depend on the text and on the link.

    Args:
        num_layers: Number of layers L. Each has six modules.
        r_max: Largest rank, at most `hidden_size`.
        hidden_size: Size d of the d x d modules.
        seed: Seed of the generator that draws w_m and tau_m.

    Raises:
        RankPatternError: `r_max` is above `hidden_size`.
    """

    def __init__(self, num_layers: int = 2, r_max: int = 8, hidden_size: int = 64, seed: int = 0) -> None:
        if r_max > hidden_size:
            raise RankPatternError.of("r_max", r_max, f"1 to {hidden_size}, the size of the modules")
        generator = np.random.default_rng(seed)
        names = [f"layers.{layer}.{role}" for layer in range(num_layers) for role in _ROLES]
        self._shapes = {name: ModuleShape(hidden_size, hidden_size) for name in names}
        self._r_max = r_max
        self.floor = 0.2
        self.weights = generator.dirichlet(np.full(len(names), 0.7)) * 0.8
        self.decays = generator.uniform(0.5, 3.0, len(names))
        self._generator = np.random.default_rng(seed)
        self._text = TextComplexity(entropy_nats=2.5, oov_rate=0.2)

    @property
    def shapes(self) -> Mapping[str, ModuleShape]:
        """Shape of each module, in order."""
        return self._shapes

    @property
    def r_max(self) -> int:
        """Largest rank of a module."""
        return self._r_max

    @property
    def head_params(self) -> int:
        """Parameters of the classification head, 0."""
        return 0

    def reset(self, generator: np.random.Generator) -> None:
        """Start an episode and draw its first text from a generator, which the objective keeps."""
        self._generator = generator
        self._draw_text()

    def complexity(self) -> TextComplexity:
        """Return lexical entropy and OOV rate of the text of the current step."""
        return self._text

    def loss(self, ranks: IntArray, oov_rate: float) -> float:
        """Return the loss U(r) on a text of the given OOV rate, nats."""
        return float(self.floor + (1.0 + oov_rate) * np.sum(self.weights * np.exp(-ranks / self.decays)))

    def measure(self, ranks: IntArray) -> float:
        """Return the loss U(r) on the text of the current step, nats, and draw the next text."""
        loss = self.loss(ranks, self._text.oov_rate)
        self._draw_text()
        return loss

    def gains(self, oov_rate: float) -> FloatArray:
        """Return the decrease of the loss by component k + 1 of each module, nats, float [num_modules, r_max]."""
        ranks = np.arange(self._r_max + 1)
        curves = (1.0 + oov_rate) * self.weights[:, None] * np.exp(-ranks[None, :] / self.decays[:, None])
        gains: FloatArray = (curves[:, :-1] - curves[:, 1:]).astype(np.float64)
        return gains

    def optimum(self, oov_rate: float, price_per_component: float, max_components: int) -> IntArray:
        """Return the ranks of least loss plus price.

        Greedy selection is optimal because all components have one size and the gains decrease with the rank.

        Args:
            oov_rate: OOV rate of the text, 0 to 1.
            price_per_component: Price lambda * eta of one component, nats.
            max_components: Largest number of components.

        Returns:
            Ranks, int64 [num_modules].
        """
        gains = self.gains(oov_rate)
        order = np.argsort(-gains, axis=None, kind="stable")[: max(0, max_components)]
        chosen = order[gains.ravel()[order] > price_per_component]
        ranks: IntArray = np.bincount(chosen // self._r_max, minlength=len(self._shapes)).astype(np.int64)
        return ranks

    def state_dict(self) -> dict[str, Any]:
        """Return the text of the current step and the state of the generator."""
        return {
            "entropy_nats": self._text.entropy_nats,
            "oov_rate": self._text.oov_rate,
            "generator": self._generator.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self._text = TextComplexity(entropy_nats=state["entropy_nats"], oov_rate=state["oov_rate"])
        self._generator.bit_generator.state = state["generator"]

    def _draw_text(self) -> None:
        entropy_nats = float(self._generator.uniform(1.5, 3.5))
        self._text = TextComplexity(entropy_nats=entropy_nats, oov_rate=float(self._generator.beta(2.0, 6.0)))
