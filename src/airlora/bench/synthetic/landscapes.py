"""What ranks are worth in the synthetic objective: with modules on their own, and with modules that interact.

Both are made of *leaves* (one module, or a pair) and say what a pattern is worth (`value`), what the largest ranks
approach (`limit`), and the most that any budget can be worth (`curve`).  The text scales every leaf by a factor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from airlora.bench.synthetic.max_plus import Curve, Floats, combine, leaf_curve
from airlora.observation import IntArray

__all__ = ["ROLES", "UNITS_PER_RANK", "Interacting", "Landscape", "Separable"]

ROLES = ("q", "k", "v", "o", "fc1", "fc2")
UNITS_PER_RANK = (2, 2, 2, 2, 5, 5)
"""Units of one component of each role."""

TOTAL_WORTH = 0.8
"""What all modules are worth together at most, nats."""

_PAIRS_PER_LAYER = 3

# With this tail and these bends, on 36 interacting modules, concave curves per module fitted to many noiseless losses
# have a regret of about .2: interactions decide much, while random filling stays near the best constant.
_TAIL = 1.2
_BENDS = (1.0, 4.0)


class Landscape(Protocol):
    """A worth of ranks whose best value within any budget is known."""

    @property
    def num_leaves(self) -> int:
        """How many factors the text has."""
        ...

    def value(self, ranks: IntArray, factors: Floats) -> float:
        """Return the worth of `ranks` (int64 [num_modules]) under the text's factors ([num_leaves], > 0), nats."""
        ...

    def limit(self, factors: Floats) -> float:
        """Return what the worth approaches as all ranks grow without bound, nats."""
        ...

    def curve(self, factors: Floats) -> Curve:
        """Return the best worth within any number of units, exactly."""
        ...


class Separable:
    r"""Every module on its own, each with diminishing returns.

    $$V(r, x) = \sum_m t_m(x)\,w_m\,(1 - e^{-r_m/\tau_m})$$

    Notation: w_m weights, heavy-tailed, so that a few modules carry most and many nearly nothing; tau_m decays,
    log-uniform from 0.5 to 8; t_m the text's factors.

    Args:
        num_layers: L.
        r_max: Largest rank.
        generator: Draws w_m and tau_m.
    """

    def __init__(self, num_layers: int, r_max: int, generator: np.random.Generator) -> None:
        self.num_leaves = num_layers * len(ROLES)
        weights = _heavy_tailed(self.num_leaves, generator)
        decays = _log_uniform(self.num_leaves, generator)
        self.weights = weights
        self.worths = weights[:, None] * (1.0 - np.exp(-np.arange(r_max + 1) / decays[:, None]))
        self._units = UNITS_PER_RANK * num_layers

    def value(self, ranks: IntArray, factors: Floats) -> float:
        """Return the worth of `ranks`, nats."""
        return float(factors @ self.worths[np.arange(self.num_leaves), ranks])

    def limit(self, factors: Floats) -> float:
        """Return the sum of the weights under the text."""
        return float(factors @ self.weights)

    def curve(self, factors: Floats) -> Curve:
        """Return the best worth within any number of units, exactly."""
        worths = factors[:, None] * self.worths
        return combine([leaf_curve(row, [unit]) for row, unit in zip(worths, self._units, strict=True)])


class Interacting:
    r"""Pairs that need each other, inside layers and groups of layers that can replace each other.

    $$V(r, x) = \sum_g \psi_g\Big(\sum_{l \in g} \phi_l\Big(\sum_{p \in l} t_p(x)\,G_p(r_{p,1}, r_{p,2})\Big)\Big)$$

    Notation: p the pairs (q, k), (v, o), (fc1, fc2) of a layer l; g groups of `layers_per_group` adjacent layers (the
    last may have fewer); G_p a table that rises along both axes; phi_l and psi_g rise and saturate; t_p the text's
    factors.

    A table starts as $w_p\,(\sigma_p ab + (1 - \sigma_p)(\alpha_p a + (1 - \alpha_p) b))$ with S-shaped
    $a = (1 - e^{-r/\tau})^{\kappa}$, so that one module without the other is worth little and the first components
    less than the next ones.  Then each of its increments (the mixed differences) is multiplied by a random number of
    its own: the tables belong to no family of curves that a policy could have been given.

    Args:
        num_layers: L.
        r_max: Largest rank.
        generator: Draws everything.
        layers_per_group: How many adjacent layers can replace each other.
    """

    def __init__(self, num_layers: int, r_max: int, generator: np.random.Generator, layers_per_group: int = 3) -> None:
        self.num_leaves = num_layers * _PAIRS_PER_LAYER
        self.weights = _heavy_tailed(self.num_leaves, generator)
        self.tables = np.stack([weight * _draw_table(r_max, generator) for weight in self.weights])
        self._starts = np.arange(0, num_layers, layers_per_group)
        self._layers_per_group = layers_per_group
        layer_worth = self.weights.reshape(num_layers, _PAIRS_PER_LAYER).sum(axis=1)
        group_worth = np.add.reduceat(layer_worth, self._starts)
        self._layers = _Saturation(layer_worth, generator.uniform(*_BENDS, num_layers))
        self._groups = _Saturation(group_worth, generator.uniform(*_BENDS, len(self._starts)))

    def value(self, ranks: IntArray, factors: Floats) -> float:
        """Return the worth of `ranks`, nats."""
        return self._gather(factors * self.tables[np.arange(self.num_leaves), ranks[0::2], ranks[1::2]])

    def limit(self, factors: Floats) -> float:
        """Return the worth of all pairs at their weights."""
        return self._gather(factors * self.weights)

    def curve(self, factors: Floats) -> Curve:
        """Return the best worth within any number of units, exactly."""
        tables = factors[:, None, None] * self.tables
        units = [UNITS_PER_RANK[2 * pair : 2 * pair + 2] for pair in range(_PAIRS_PER_LAYER)]
        pairs = [leaf_curve(table, units[pair % _PAIRS_PER_LAYER]) for pair, table in enumerate(tables)]
        layers = [
            combine(pairs[_PAIRS_PER_LAYER * layer : _PAIRS_PER_LAYER * (layer + 1)]).apply(self._layers.at(layer))
            for layer in range(len(pairs) // _PAIRS_PER_LAYER)
        ]
        groups = [
            combine(layers[start : start + self._layers_per_group]).apply(self._groups.at(group))
            for group, start in enumerate(self._starts.tolist())
        ]
        return combine(groups)

    def _gather(self, pairs: Floats) -> float:
        layers = self._layers(pairs.reshape(-1, _PAIRS_PER_LAYER).sum(axis=1))
        return float(self._groups(np.add.reduceat(layers, self._starts)).sum())


class _Saturation:
    r"""Increasing functions with diminishing returns, $c\,(1 - e^{-\kappa x / c}) / (1 - e^{-\kappa})$, one per part.

    Notation: c worth, reached at x = c; kappa > 0 bend.
    """

    def __init__(self, worth: Floats, bend: Floats) -> None:
        self._worth = worth
        self._bend = bend

    def __call__(self, values: Floats) -> Floats:
        return _saturate(values, self._worth, self._bend)

    def at(self, index: int) -> Callable[[Floats], Floats]:
        """Return the function of one part."""
        worth, bend = self._worth[index], self._bend[index]
        return lambda values: _saturate(values, worth, bend)


def _saturate(values: Floats, worth: Floats | np.float64, bend: Floats | np.float64) -> Floats:
    saturated: Floats = worth * np.expm1(-bend * values / worth) / np.expm1(-bend)
    return saturated


def _heavy_tailed(size: int, generator: np.random.Generator) -> Floats:
    """Return log-normal weights that sum to `TOTAL_WORTH`; of 36 the largest is about a hundred times the smallest."""
    weights = generator.lognormal(0.0, _TAIL, size)
    shares: Floats = TOTAL_WORTH * weights / weights.sum()
    return shares


def _log_uniform(size: int, generator: np.random.Generator) -> Floats:
    decays: Floats = np.exp(generator.uniform(np.log(0.5), np.log(8.0), size))
    return decays


def _draw_table(r_max: int, generator: np.random.Generator) -> Floats:
    """Return a table of a pair, [r_max + 1, r_max + 1], 0 without components, rising along both axes, below 1."""
    decays, powers = _log_uniform(2, generator), generator.uniform(1.0, 3.0, 2)
    synergy, lean = generator.uniform(0.7, 0.95), generator.uniform(0.2, 0.8)
    rows, columns = ((1.0 - np.exp(-np.arange(r_max + 1) / decays[:, None])) ** powers[:, None])[:, :, None]
    smooth = synergy * rows * columns.T + (1.0 - synergy) * (lean * rows + (1.0 - lean) * columns.T)
    increments = np.diff(np.diff(smooth, axis=0, prepend=0.0), axis=1, prepend=0.0)
    rough = (increments * generator.lognormal(0.0, 0.5, increments.shape)).cumsum(axis=0).cumsum(axis=1)
    table: Floats = rough * (smooth[-1, -1] / rough[-1, -1])
    return table
