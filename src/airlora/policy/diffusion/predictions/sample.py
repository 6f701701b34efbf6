"""Prediction "sample": the network estimates the clean sample."""

from __future__ import annotations

from torch import Tensor

from airlora.policy.diffusion.predictions import PREDICTIONS, Prediction
from airlora.policy.diffusion.process import predict_noise

__all__ = ["SamplePrediction"]


@PREDICTIONS.register("sample")
class SamplePrediction(Prediction):
    """The output is x_0, the paper's x0-prediction.  Source: Ramesh et al. 2022 (arXiv:2204.06125), section 2.2."""

    def target(self, x0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:  # noqa: ARG002
        """Return the clean sample."""
        return x0

    def to_x0_and_noise(self, output: Tensor, x_tau: Tensor, alpha_bar: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return the output, and the noise by Eq. 14."""
        return output, predict_noise(x_tau, output, alpha_bar)
