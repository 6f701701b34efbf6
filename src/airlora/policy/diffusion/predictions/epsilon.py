"""Prediction "epsilon": the network estimates the noise (Eq. 15)."""

from __future__ import annotations

from torch import Tensor

from airlora.policy.diffusion.predictions import PREDICTIONS, Prediction
from airlora.policy.diffusion.process import predict_x0

__all__ = ["EpsilonPrediction"]


@PREDICTIONS.register("epsilon")
class EpsilonPrediction(Prediction):
    """The output is epsilon.  Source: Ho et al. 2020 (arXiv:2006.11239)."""

    def target(self, x0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:  # noqa: ARG002
        """Return the noise."""
        return noise

    def to_x0_and_noise(self, output: Tensor, x_tau: Tensor, alpha_bar: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return x_0 by Eq. 14, and the output."""
        return predict_x0(x_tau, output, alpha_bar), output
