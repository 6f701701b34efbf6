r"""Errors weighed by what they do: a metric over a vector's numbers, and rounding that steers its errors by it.

$$\|e\|_H^2 = e^\top H e, \qquad H = W W^\top, \qquad \|e\|_H^2 = \sum_i W_{ii}^2
  \Big(e_i + \sum_{j<i} \frac{W_{ji}}{W_{ii}} e_j\Big)^2$$

W is upper triangular, so number i answers for the part of the errors before it that it can undo: what is rounded is not
x_i but

$$z_i = x_i + \sum_{j<i} \frac{W_{ji}}{W_{ii}} e_j, \qquad e_j = x_j - q_j$$

With numbers that act alike on the loss, as a layer's inputs do that rise and fall together, the errors then cancel in
what the layer computes.  Only the encoder does so: what is sent are whole numbers and steps as ever.

H is a second moment, of a layer's inputs for the rows of the right factor and of its outputs' gradients for the columns
of the left one, over its mean diagonal, plus `DAMPING` times the identity; in blocks along the diagonal, so that wide
layers fit into memory.  It is scaled so that the geometric mean of W_ii^2 is 1, so a step does as much harm as without.

Source: Frantar et al. 2023 (GPTQ) and Chee et al. 2023 (QuIP, LDLQ) for rounding with feedback; Martens and Grosse 2015
(K-FAC) for the two second moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.errors import CodecError

__all__ = ["DAMPING", "ErrorMetric", "squared_norms"]

DAMPING = 0.1
"""Share of its mean that is added to a second moment's diagonal: it comes from few samples."""


@dataclass(frozen=True, slots=True)
class ErrorMetric:
    """A metric over vectors of d numbers.

    Args:
        factors: W of each block, upper triangular with a positive diagonal, float32; together they cover d numbers.
    """

    factors: tuple[NDArray[np.float32], ...]

    @classmethod
    def of(cls, moments: Sequence[NDArray[Any]]) -> ErrorMetric:
        """Return the metric of a second moment, which need not be scaled.

        Args:
            moments: Its blocks along the diagonal, symmetric, positive semidefinite.  All zero: every error counts
                alike.

        Raises:
            CodecError: There is no block, or one is not square, finite and positive semidefinite.
        """
        for block in moments:
            if block.ndim != 2 or block.shape[0] != block.shape[1] or not len(block):
                raise CodecError.of("shape of a second moment", block.shape, "square, one row or more")
            if not np.isfinite(block).all():
                raise CodecError("second moment: holds values that are not finite")
        size = sum(len(block) for block in moments)
        if not size:
            raise CodecError.of("second moment: blocks", 0, "one or more")
        mean = sum(float(np.trace(block)) for block in moments) / size
        factors = [
            _upper_factor(np.asarray(block, dtype=np.float64) / (mean if mean > 0 else 1.0)) for block in moments
        ]
        log_scale = sum(float(np.log(np.diagonal(factor)).sum()) for factor in factors) / size
        return cls(tuple((factor / np.exp(log_scale)).astype(np.float32) for factor in factors))

    @property
    def size(self) -> int:
        """D."""
        return sum(len(factor) for factor in self.factors)

    @property
    def mean_energy(self) -> float:
        """Mean of W_ii^2, at least 1: what an error of one step adds on the mean if no other error undoes it."""
        return sum(float(np.square(np.diagonal(factor), dtype=np.float64).sum()) for factor in self.factors) / self.size

    def weigh(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return W^T x of each row x, whose Euclidean norm is the norm of x in the metric; [r, d] to [r, d]."""
        parts = [rows[:, place].astype(np.float64) @ factor.astype(np.float64) for place, factor in self._blocks()]
        return np.concatenate(parts, axis=1)

    def _blocks(self) -> list[tuple[slice, NDArray[np.float32]]]:
        ends = np.cumsum([len(factor) for factor in self.factors]).tolist()
        return [(slice(end - len(factor), end), factor) for end, factor in zip(ends, self.factors, strict=True)]


def squared_norms(rows: NDArray[Any], metric: ErrorMetric | None) -> NDArray[np.float64]:
    """Return the squared norm of each row, [r, d] to [r], in the metric; None: the Euclidean one."""
    weighed = rows if metric is None else metric.weigh(rows)
    result: NDArray[np.float64] = np.einsum("rk,rk->r", weighed, weighed, dtype=np.float64)
    return result


def _upper_factor(moment: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return W of W W^T = moment + damping, upper triangular: Cholesky's lower factor from the last number back."""
    damped = (moment + moment.T) / 2 + DAMPING * np.eye(len(moment))
    try:
        lower = np.linalg.cholesky(damped[::-1, ::-1])
    except np.linalg.LinAlgError:
        raise CodecError("second moment: is not positive semidefinite") from None
    return np.ascontiguousarray(lower[::-1, ::-1])
