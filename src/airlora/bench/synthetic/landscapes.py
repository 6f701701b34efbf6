"""Landscapes of the synthetic objective: the value of a rank pattern, for independent and for interacting modules.

A landscape consists of *leaves*, each of which is a module or a pair of modules. The text scales every leaf by a
factor. The value of a pattern is its reduction of the loss in nats, before the factor 1 + OOV rate.
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
"""Size of one component of each role, in units of the hidden size."""

TOTAL_VALUE = 0.8
"""Sum of the weights of all leaves, nats."""

_PAIRS_PER_LAYER = 3

# With these values, concave curves per module that are fitted to many noiseless losses of 36 interacting modules have a
# regret of about .2. Interactions therefore matter, and random filling stays near the best constant rank.
_TAIL = 1.2
_BENDS = (1.0, 4.0)


class Landscape(Protocol):
    """A function of ranks whose maximum within any budget is known."""

    @property
    def num_leaves(self) -> int:
        """Number of leaves, which is the number of factors of a text."""
        ...

    def value(self, ranks: IntArray, factors: Floats) -> float:
        """Return the value of ranks, int64 [num_modules], under factors of a text, float [num_leaves], > 0; nats."""
        ...

    def limit(self, factors: Floats) -> float:
        """Return the limit of the value as all ranks grow without bound, nats."""
        ...

    def curve(self, factors: Floats) -> Curve:
        """Return the largest value within any number of units, exactly."""
        ...


class Separable:
    r"""Independent modules with diminishing returns.

    $$V(r, x) = \sum_m t_m(x)\,w_m\,(1 - e^{-r_m/\tau_m})$$

    Notation: w_m weights; tau_m decays, log-uniform from 0.5 to 8; t_m factors of the text.

    The weights are heavy-tailed: a few modules contribute most of the value, and many contribute almost nothing.

    Args:
        num_layers: Number of layers L.
        r_max: Largest rank.
        generator: NumPy generator that draws w_m and tau_m.
    """

    def __init__(self, num_layers: int, r_max: int, generator: np.random.Generator) -> None:
        self.num_leaves = num_layers * len(ROLES)
        weights = _heavy_tailed(self.num_leaves, generator)
        decays = _log_uniform(self.num_leaves, generator)
        self.weights = weights
        self.values = weights[:, None] * (1.0 - np.exp(-np.arange(r_max + 1) / decays[:, None]))
        self._units = UNITS_PER_RANK * num_layers

    def value(self, ranks: IntArray, factors: Floats) -> float:
        """Return the value of ranks, nats."""
        return float(factors @ self.values[np.arange(self.num_leaves), ranks])

    def limit(self, factors: Floats) -> float:
        """Return the sum of the weights times the factors, nats."""
        return float(factors @ self.weights)

    def curve(self, factors: Floats) -> Curve:
        """Return the largest value within any number of units, exactly."""
        values = factors[:, None] * self.values
        return combine([leaf_curve(row, [unit]) for row, unit in zip(values, self._units, strict=True)])


class Interacting:
    r"""Pairs of modules that need each other, in layers and groups of layers that can replace each other.

    $$V(r, x) = \sum_g \psi_g\Big(\sum_{l \in g} \phi_l\Big(\sum_{p \in l} t_p(x)\,G_p(r_{p,1}, r_{p,2})\Big)\Big)$$

    Notation: p pairs (q, k), (v, o) and (fc1, fc2) of a layer l; g groups of `layers_per_group` adjacent layers, of
    which the last may have fewer; G_p table that rises along both axes; phi_l and psi_g saturating functions; t_p
    factors of the text.

    A table starts as $w_p\,(\sigma_p ab + (1 - \sigma_p)(\alpha_p a + (1 - \alpha_p) b))$ with S-shaped
    $a = (1 - e^{-r/\tau})^{\kappa}$. One module without the other therefore has little value, and the first components
    have less than the next ones. Every increment of the table (mixed difference) is then multiplied by a random number,
    so that the tables belong to no parametric family that a policy could assume.

    Args:
        num_layers: Number of layers L.
        r_max: Largest rank.
        generator: NumPy generator that draws tables and functions.
        layers_per_group: Number of adjacent layers that can replace each other.
    """

    def __init__(self, num_layers: int, r_max: int, generator: np.random.Generator, layers_per_group: int = 3) -> None:
        self.num_leaves = num_layers * _PAIRS_PER_LAYER
        self.weights = _heavy_tailed(self.num_leaves, generator)
        self.tables = np.stack([weight * _draw_table(r_max, generator) for weight in self.weights])
        self._starts = np.arange(0, num_layers, layers_per_group)
        self._layers_per_group = layers_per_group
        layer_scale = self.weights.reshape(num_layers, _PAIRS_PER_LAYER).sum(axis=1)
        group_scale = np.add.reduceat(layer_scale, self._starts)
        self._layers = _Saturation(layer_scale, generator.uniform(*_BENDS, num_layers))
        self._groups = _Saturation(group_scale, generator.uniform(*_BENDS, len(self._starts)))

    def value(self, ranks: IntArray, factors: Floats) -> float:
        """Return the value of ranks, nats."""
        return self._gather(factors * self.tables[np.arange(self.num_leaves), ranks[0::2], ranks[1::2]])

    def limit(self, factors: Floats) -> float:
        """Return the value of all pairs at their weights, nats."""
        return self._gather(factors * self.weights)

    def curve(self, factors: Floats) -> Curve:
        """Return the largest value within any number of units, exactly."""
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
    r"""Increasing functions with diminishing returns, $c\,(1 - e^{-\kappa x / c}) / (1 - e^{-\kappa})$.

    Notation: c scale, the value at x = c; kappa > 0 bend.
    """

    def __init__(self, scale: Floats, bend: Floats) -> None:
        self._scale = scale
        self._bend = bend

    def __call__(self, values: Floats) -> Floats:
        return _saturate(values, self._scale, self._bend)

    def at(self, index: int) -> Callable[[Floats], Floats]:
        """Return one of the functions."""
        scale, bend = self._scale[index], self._bend[index]
        return lambda values: _saturate(values, scale, bend)


def _saturate(values: Floats, scale: Floats | np.float64, bend: Floats | np.float64) -> Floats:
    saturated: Floats = scale * np.expm1(-bend * values / scale) / np.expm1(-bend)
    return saturated


def _heavy_tailed(size: int, generator: np.random.Generator) -> Floats:
    """Return log-normal weights with the sum `TOTAL_VALUE`. The largest of 36 is about 100 times the smallest."""
    weights = generator.lognormal(0.0, _TAIL, size)
    shares: Floats = TOTAL_VALUE * weights / weights.sum()
    return shares


def _log_uniform(size: int, generator: np.random.Generator) -> Floats:
    decays: Floats = np.exp(generator.uniform(np.log(0.5), np.log(8.0), size))
    return decays


def _draw_table(r_max: int, generator: np.random.Generator) -> Floats:
    """Return a random value for each pair of ranks of two modules, float [r_max + 1, r_max + 1].

    The values start at 0, rise along both axes and stay below 1.
    """
    decays, powers = _log_uniform(2, generator), generator.uniform(1.0, 3.0, 2)
    synergy, lean = generator.uniform(0.7, 0.95), generator.uniform(0.2, 0.8)
    rows, columns = ((1.0 - np.exp(-np.arange(r_max + 1) / decays[:, None])) ** powers[:, None])[:, :, None]
    smooth = synergy * rows * columns.T + (1.0 - synergy) * (lean * rows + (1.0 - lean) * columns.T)
    increments = np.diff(np.diff(smooth, axis=0, prepend=0.0), axis=1, prepend=0.0)
    rough = (increments * generator.lognormal(0.0, 0.5, increments.shape)).cumsum(axis=0).cumsum(axis=1)
    table: Floats = rough * (smooth[-1, -1] / rough[-1, -1])
    return table
