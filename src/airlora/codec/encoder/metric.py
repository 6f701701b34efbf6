r"""Error metric of a vector: squared errors weighted by their effect on the loss.

$$\|e\|_H^2 = e^\top H e, \qquad H = W W^\top, \qquad \|e\|_H^2 = \sum_i W_{ii}^2
  \Big(e_i + \sum_{j<i} \frac{W_{ji}}{W_{ii}} e_j\Big)^2$$

H is a second moment, and W is its upper triangular factor. For a right factor (the rows of V), H is the second moment
of the layer's inputs. For a left factor (the columns of U), it is the second moment of the gradients of the layer's
outputs. H is divided by its mean diagonal, and `DAMPING` times the identity is added. It is block-diagonal, so that the
factors of wide layers fit into memory. The scale of H makes the geometric mean of W_ii^2 equal to 1.

Source: Martens and Grosse 2015 (K-FAC) for the two second moments.
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
"""Multiple of the identity that is added to a second moment of mean diagonal 1, because few samples estimate it."""


@dataclass(frozen=True, slots=True)
class ErrorMetric:
    """Quadratic form that measures the error of vectors of length d.

    Args:
        factors: W of each diagonal block, upper triangular with a positive diagonal, float32 [n, n]. The block sizes n
            add up to d.
    """

    factors: tuple[NDArray[np.float32], ...]

    @classmethod
    def from_moments(cls, moments: Sequence[NDArray[Any]]) -> ErrorMetric:
        """Return the metric of a second moment.

        Args:
            moments: Diagonal blocks of the second moment, each [n, n], symmetric and positive semidefinite, in any
                scale. If all are zero, the metric is the Euclidean norm.

        Raises:
            CodecError: There is no block, or a block is not square, finite and positive semidefinite.
        """
        for block in moments:
            if block.ndim != 2 or block.shape[0] != block.shape[1] or not len(block):
                raise CodecError.of("shape of a second moment", block.shape, "square, one row or more")
            if not np.isfinite(block).all():
                raise CodecError("second moment: contains values that are not finite")
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
        """Length d of the vectors."""
        return sum(len(factor) for factor in self.factors)

    @property
    def mean_squared_diagonal(self) -> float:
        """Mean of W_ii^2, 1 or more.

        It predicts the effect of error feedback at fine steps: the squared error in the metric with feedback, divided
        by the squared Euclidean error without feedback.
        """
        return sum(float(np.square(np.diagonal(factor), dtype=np.float64).sum()) for factor in self.factors) / self.size

    def transform(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return W^T x for each row x. Its Euclidean norm is the norm of x in the metric.

        Args:
            rows: Vectors, [r, d].
        """
        # Rows of any size fit into float32 once their largest value is 1.
        sizes = np.abs(rows).max(axis=1, initial=0.0, keepdims=True).astype(np.float64)
        scaled = (rows / np.where(sizes > 0, sizes, 1.0)).astype(np.float32)
        ends = np.cumsum([len(factor) for factor in self.factors]).tolist()
        blocks = [scaled[:, end - len(factor) : end] @ factor for end, factor in zip(ends, self.factors, strict=True)]
        transformed: NDArray[np.float64] = sizes * np.concatenate(blocks, axis=1)
        return transformed


def squared_norms(rows: NDArray[Any], metric: ErrorMetric | None) -> NDArray[np.float64]:
    """Return the squared norm of each row, float [r].

    Args:
        rows: Vectors, [r, d].
        metric: Metric of the norm. None uses the Euclidean norm.
    """
    transformed = rows if metric is None else metric.transform(rows)
    result: NDArray[np.float64] = np.einsum("rk,rk->r", transformed, transformed, dtype=np.float64)
    return result


def _upper_factor(moment: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the upper triangular W with W W^T = moment + damping: a Cholesky factorisation in reversed order."""
    damped = (moment + moment.T) / 2 + DAMPING * np.eye(len(moment))
    try:
        lower = np.linalg.cholesky(damped[::-1, ::-1])
    except np.linalg.LinAlgError:
        raise CodecError("second moment: is not positive semidefinite") from None
    return np.ascontiguousarray(lower[::-1, ::-1])
