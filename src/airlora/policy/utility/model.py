"""What ranks are worth, in tables that every form of the fit comes down to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from airlora.allocation import Gains, concave_envelope
from airlora.observation import IntArray

__all__ = ["Floats", "UtilityModel", "text_features"]

Floats = npt.NDArray[np.float64]


def text_features(offsets: Floats) -> Floats:
    """Return what worths change with, [N, 5]: both parts of the text state off its mean [N, 2], and their products.

    What a text does to a module that is worth much is seldom a straight line, and what a line leaves over is several
    times the noise of a measurement.

    >>> text_features(np.array([[2.0, -1.0]])).tolist()
    [[2.0, -1.0, 4.0, -2.0, 1.0]]
    """
    first, second = offsets[:, :1], offsets[:, 1:]
    return np.concatenate([offsets, first * offsets, second * second], axis=1)


@dataclass(frozen=True)
class UtilityModel:
    r"""How far a rank pattern lowers the loss.

    $$D(r, x) = \sum_m g_m(r_m) + \sum_m (\psi(x - \bar x) - \bar\psi)^\top t_m(r_m)
        + \sum_{m<n} C_{mn}\, \varphi_m(r_m)\, \varphi_n(r_n)$$

    | code | here | shape |
    |---|---|---|
    | curves | g, concave, rising, 0 at rank 0 | [num_modules, r_max + 1] |
    | text_features | psi, the text state off its mean and its products | [5] |
    | text_curves | t, change of g per unit of psi, or of its linear two | [0, 2 or 5, num_modules, r_max + 1] |
    | text_mean | mean of x, lexical entropy and OOV rate as the state's vector has them | [2] |
    | feature_mean | mean of psi | [5] |
    | text_range | least and largest x that was measured: beyond it a worth is that at its edge | [2, 2] |
    | basis | phi, from 0 at rank 0 to 1 at r_max | [num_modules, r_max + 1] |
    | coupling | C, symmetric, 0 on the diagonal; above 0 if two modules need each other | [num_modules, num_modules] |

    Parts that a form leaves out are zero.
    """

    curves: Floats
    text_curves: Floats
    text_mean: Floats
    basis: Floats
    coupling: Floats
    feature_mean: Floats = field(default_factory=lambda: np.zeros(5))
    text_range: Floats = field(default_factory=lambda: np.array([[-np.inf, -np.inf], [np.inf, np.inf]]))

    @classmethod
    def flat(cls, params_per_rank: tuple[int, ...], r_max: int) -> Self:
        """Return the model of nothing measured: every number is worth the same, whatever its module."""
        num_modules = len(params_per_rank)
        sizes = np.asarray(params_per_rank, dtype=np.float64)
        ranks = np.arange(r_max + 1)
        return cls(
            curves=sizes[:, None] / sizes.sum() / r_max * ranks,
            text_curves=np.zeros((2, num_modules, r_max + 1)),
            text_mean=np.zeros(2),
            basis=np.tile(ranks / r_max, (num_modules, 1)),
            coupling=np.zeros((num_modules, num_modules)),
        )

    @property
    def num_modules(self) -> int:
        """Number of modules."""
        return len(self.curves)

    @property
    def r_max(self) -> int:
        """Largest rank."""
        return int(self.curves.shape[1]) - 1

    @property
    def is_separable(self) -> bool:
        """Whether no two modules are coupled."""
        return not self.coupling.any()

    def tables(self, text: npt.ArrayLike) -> Floats:
        """Return each module's own worth at every rank for a text, [num_modules, r_max + 1], couplings left out."""
        psi = self._psi(np.asarray(text, dtype=np.float64)[None])[0]
        return self.curves + np.tensordot(psi, self.text_curves, axes=1)

    def tables_around(self, ranks: IntArray, text: npt.ArrayLike) -> Floats:
        """Return each module's worth at every rank, [num_modules, r_max + 1], with the others at `ranks`."""
        table = self.tables(text)
        if self.is_separable:
            return table
        phi = self.basis[np.arange(self.num_modules), ranks]
        return table + self.basis * (self.coupling @ phi)[:, None]

    def gains(self, text: npt.ArrayLike, around: IntArray | None = None) -> Gains:
        """Return what each component is worth, [num_modules, r_max], >= 0 and not rising along a row.

        Args:
            text: Lexical entropy and OOV rate as the state's vector has them.
            around: Ranks of the other modules where couplings matter; none: couplings left out.
        """
        table = self.tables(text) if around is None else self.tables_around(around, text)
        return np.maximum(concave_envelope(np.diff(table, axis=1)), 0.0)

    def drop(self, ranks: IntArray, texts: Floats) -> Floats:
        """Return how far each pattern lowers the loss, nats [N], for ranks [N, num_modules] and texts [N, 2]."""
        modules = np.arange(self.num_modules)
        own = self.curves[modules, ranks].sum(axis=1)
        change = np.einsum("nt,tnm->n", self._psi(texts), self.text_curves[:, modules, ranks])
        phi = self.basis[modules, ranks]
        total: Floats = own + change + 0.5 * np.einsum("nm,mk,nk->n", phi, self.coupling, phi)
        return total

    def _psi(self, texts: Floats) -> Floats:
        """Return what `text_curves` are multiplied by, [N, 0, 2 or 5]."""
        known = np.clip(texts, *self.text_range)
        return (text_features(known - self.text_mean) - self.feature_mean)[:, : len(self.text_curves)]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the tables as tensors."""
        return {part.name: torch.from_numpy(getattr(self, part.name).copy()) for part in fields(self)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """Return the model written by `state_dict`."""
        return cls(**{part.name: state[part.name].numpy().copy() for part in fields(cls)})
