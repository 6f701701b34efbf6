"""Utility model: tables that predict the loss reduction of rank patterns.  Every form of the fit gives such tables."""

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
    """Return the features psi of the text state, [N, 5]: both entries and their three products.

    The products model curvature.  A model that is linear in the text leaves residuals of several times the measurement
    noise.

    Args:
        offsets: Text states minus their mean, [N, 2].

    Examples:
        >>> text_features(np.array([[2.0, -1.0]])).tolist()
        [[2.0, -1.0, 4.0, -2.0, 1.0]]
    """
    first, second = offsets[:, :1], offsets[:, 1:]
    return np.concatenate([offsets, first * offsets, second * second], axis=1)


@dataclass(frozen=True)
class UtilityModel:
    r"""Predicted loss reduction of rank patterns against rank 0 in all modules, nats.

    $$D(r, x) = \sum_m g_m(r_m) + \sum_m (\psi(x - \bar x) - \bar\psi)^\top t_m(r_m)
        + \sum_{m<n} C_{mn}\, \varphi_m(r_m)\, \varphi_n(r_n)$$

    Notation: m, n adapted modules; r ranks; x text state, the entries `TEXT_SLICE` of the state vector.

    | code | equation | shape |
    |---|---|---|
    | curves | g, concave, non-decreasing, 0 at rank 0 | [num_modules, r_max + 1] |
    | text_features | psi, entries of x minus their mean, and the products of these | [5] |
    | text_curves | t, change of g per unit of psi, or of its two linear entries | [0, 2 or 5, num_modules, r_max + 1] |
    | text_mean | mean of x | [2] |
    | feature_mean | mean of psi | [5] |
    | text_range | smallest and largest measured x; texts outside are clipped to this range | [2, 2] |
    | basis | phi, from 0 at rank 0 to 1 at r_max | [num_modules, r_max + 1] |
    | coupling | C, symmetric, diagonal 0; positive for modules that need each other | [num_modules, num_modules] |

    Tables that a form of the model does not use are zero.
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
        """Return a model in which every parameter has the same gain; it needs no measurement.

        Args:
            params_per_rank: Parameters in one component of each module.
            r_max: Largest rank.
        """
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
        """Number of adapted modules."""
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
        """Return the utility of every rank of each module, nats, [num_modules, r_max + 1], without couplings.

        Args:
            text: Text state, the entries `TEXT_SLICE` of a state vector, [2].
        """
        psi = self._psi(np.asarray(text, dtype=np.float64)[None])[0]
        return self.curves + np.tensordot(psi, self.text_curves, axes=1)

    def tables_around(self, ranks: IntArray, text: npt.ArrayLike) -> Floats:
        """Return the utility of every rank of each module, nats, [num_modules, r_max + 1], with couplings.

        Args:
            ranks: Ranks of the other modules, int64 [num_modules].
            text: Text state, [2].
        """
        table = self.tables(text)
        if self.is_separable:
            return table
        phi = self.basis[np.arange(self.num_modules), ranks]
        return table + self.basis * (self.coupling @ phi)[:, None]

    def gains(self, text: npt.ArrayLike, around: IntArray | None = None) -> Gains:
        """Return the predicted gain of every component, nats, [num_modules, r_max], >= 0, rows non-increasing.

        Args:
            text: Text state, [2].
            around: Ranks of the other modules for the couplings, int64 [num_modules].  None ignores couplings.
        """
        table = self.tables(text) if around is None else self.tables_around(around, text)
        return np.maximum(concave_envelope(np.diff(table, axis=1)), 0.0)

    def loss_reduction(self, ranks: IntArray, texts: Floats) -> Floats:
        """Return the predicted loss reduction D of rank patterns, nats, [N].

        Args:
            ranks: Rank patterns, int64 [N, num_modules].
            texts: Text state of each pattern, [N, 2].
        """
        modules = np.arange(self.num_modules)
        own = self.curves[modules, ranks].sum(axis=1)
        change = np.einsum("nt,tnm->n", self._psi(texts), self.text_curves[:, modules, ranks])
        phi = self.basis[modules, ranks]
        total: Floats = own + change + 0.5 * np.einsum("nm,mk,nk->n", phi, self.coupling, phi)
        return total

    def _psi(self, texts: Floats) -> Floats:
        clipped = np.clip(texts, *self.text_range)
        return (text_features(clipped - self.text_mean) - self.feature_mean)[:, : len(self.text_curves)]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return copies of the tables as tensors."""
        return {table.name: torch.from_numpy(getattr(self, table.name).copy()) for table in fields(self)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """Return the model of a state returned by `state_dict`."""
        return cls(**{table.name: state[table.name].numpy().copy() for table in fields(cls)})
