r"""Gradient-based importance of the rank-one components of an adapter.

Let a gate multiply component k of module m: $\gamma_k s\,\lambda_k p_k q_k$ with $\gamma_k = 1$. Its gradient follows
from that of $\lambda_k$ at no extra cost: $g_k = \lambda_k\,\partial L / \partial \lambda_k$.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from airlora.adapters.injection import AdaptedModel
from airlora.errors import RankPatternError, TrainingError

__all__ = ["ImportanceAccumulator"]


class ImportanceAccumulator:
    r"""Accumulator of the gate gradients $g_k$ over mini-batches.

    Call `add` after the backward pass of each mini-batch. Clear the gradients between mini-batches, and keep every
    module at rank r_max. The loss must be that of the mini-batch, without the penalty of Eq. 3. The components should
    be in canonical order (`canonicalise`).

    Args:
        adapted: Model with the adapter to measure.
    """

    def __init__(self, adapted: AdaptedModel) -> None:
        self._adapted = adapted
        shape = (len(adapted.updates), adapted.r_max)
        self._sum: npt.NDArray[np.float64] = np.zeros(shape)
        self._sum_of_squares: npt.NDArray[np.float64] = np.zeros(shape)
        self._num_batches = 0

    def add(self) -> None:
        """Add the gradients that the model holds as one mini-batch.

        Raises:
            RankPatternError: A module is below rank r_max.
            TrainingError: A module has no gradient, or one that is not finite.
        """
        gates = np.empty_like(self._sum)
        for row, (name, update) in enumerate(self._adapted.updates.items()):
            if update.rank != update.r_max:
                raise RankPatternError.of(f"rank of {name}", update.rank, f"{update.r_max}: importance needs full rank")
            if update.lam.grad is None:
                raise TrainingError(f"no gradient in {name}: call add() after a backward pass")
            gates[row] = (update.lam.grad.double() * update.lam.detach().double()).cpu().numpy()
            if not np.isfinite(gates[row]).all():
                raise TrainingError(f"the gradient in {name} is not finite")
        self._sum += gates
        self._sum_of_squares += gates**2
        self._num_batches += 1

    def squared_gradient(self) -> npt.NDArray[np.float64]:
        r"""Return the mean of $g_k^2$ over the mini-batches, float64 [num_modules, r_max].

        This is the diagonal of the empirical Fisher information of the gates, with mini-batches as samples.

        Raises:
            TrainingError: No mini-batch was added.
        """
        return self._mean(self._sum_of_squares)

    def gradient(self) -> npt.NDArray[np.float64]:
        r"""Return the mean gradient $\overline{g_k}$, float64 [num_modules, r_max].

        A negative value means that strengthening the component lowers the loss.

        Raises:
            TrainingError: No mini-batch was added.
        """
        return self._mean(self._sum)

    def taylor(self) -> npt.NDArray[np.float64]:
        r"""Return $|\overline{g_k}|$, float64 [num_modules, r_max].

        This is the first-order estimate of the change of the mean loss when the component is removed. It vanishes at a
        minimum of the loss.

        Raises:
            TrainingError: No mini-batch was added.

        Source: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning".
        """
        return np.abs(self.gradient())

    def _mean(self, total: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if not self._num_batches:
            raise TrainingError("importance of no batch: call add() after a backward pass")
        return total / self._num_batches
