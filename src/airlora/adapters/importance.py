r"""How much the loss leans on each rank-one component, from gradients alone.

Put a gate on component k of module m, $\gamma_k s\,\lambda_k p_k q_k$ with $\gamma_k = 1$.  The gate multiplies
$\lambda_k$, so its gradient is exact and free: $g_k = \lambda_k\,\partial L / \partial \lambda_k$.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from airlora.adapters.inject import AdaptedModel
from airlora.errors import RankPatternError, TrainingError

__all__ = ["ImportanceAccumulator"]


class ImportanceAccumulator:
    r"""Importance per component, averaged over mini-batches; use it on canonical components (`canonicalise`).

    Call `add` after the backward pass of each mini-batch, with gradients cleared in between and every module at full
    rank.  The loss has to be that of the mini-batch alone, without the penalty of Eq. 3.

    Args:
        adapted: The model.
    """

    def __init__(self, adapted: AdaptedModel) -> None:
        self._adapted = adapted
        shape = (len(adapted.updates), adapted.r_max)
        self._sum: npt.NDArray[np.float64] = np.zeros(shape)
        self._sum_of_squares: npt.NDArray[np.float64] = np.zeros(shape)
        self._num_batches = 0

    def add(self) -> None:
        """Take in the gradients that the model holds now.

        Raises:
            RankPatternError: A module is below full rank.
            TrainingError: A module has no gradient, or one that is not finite.
        """
        gates = np.empty_like(self._sum)
        for row, (name, update) in enumerate(self._adapted.updates.items()):
            if update.rank != update.r_max:
                raise RankPatternError.of(f"rank of {name}", update.rank, f"{update.r_max}: importance needs full rank")
            if update.lam.grad is None:
                raise TrainingError(f"no gradient in {name}: importance is taken after the backward pass")
            gates[row] = (update.lam.grad.double() * update.lam.detach().double()).cpu().numpy()
            if not np.isfinite(gates[row]).all():
                raise TrainingError(f"the gradient in {name} is not finite")
        self._sum += gates
        self._sum_of_squares += gates**2
        self._num_batches += 1

    def squared_gradient(self) -> npt.NDArray[np.float64]:
        r"""Return the mean over batches of $g_k^2$, float64 [num_modules, r_max].

        It is the diagonal of the empirical Fisher information of the gates, with a mini-batch as the sample.

        Raises:
            TrainingError: No batch was added.
        """
        return self._mean(self._sum_of_squares)

    def gradient(self) -> npt.NDArray[np.float64]:
        r"""Return $\overline{g_k}$, float64 [num_modules, r_max]; negative where the component makes the loss less.

        Raises:
            TrainingError: No batch was added.
        """
        return self._mean(self._sum)

    def taylor(self) -> npt.NDArray[np.float64]:
        r"""Return $|\overline{g_k}|$, float64 [num_modules, r_max].

        To first order it is how much the mean loss changes if the component is removed; near a minimum it vanishes.

        Raises:
            TrainingError: No batch was added.

        Source: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning".
        """
        return np.abs(self.gradient())

    def _mean(self, total: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if not self._num_batches:
            raise TrainingError("importance of no batch: call add() after a backward pass")
        return total / self._num_batches
