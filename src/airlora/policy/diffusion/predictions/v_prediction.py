"""Prediction "v_prediction": the network estimates the velocity between signal and noise."""

from __future__ import annotations

from torch import Tensor

from airlora.policy.diffusion.predictions import PREDICTIONS, Prediction
from airlora.policy.diffusion.process import root, velocity

__all__ = ["VelocityPrediction"]


@PREDICTIONS.register("v_prediction")
class VelocityPrediction(Prediction):
    """The output is v, well scaled at every step.  Source: Salimans and Ho 2022 (arXiv:2202.00512)."""

    def target(self, x0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:
        """Return the velocity."""
        return velocity(x0, noise, alpha_bar)

    def to_x0_and_noise(self, output: Tensor, x_tau: Tensor, alpha_bar: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return x_0 and the noise: (x_tau, v) is (x_0, epsilon) turned by an angle, here turned back."""
        signal, spread = root(alpha_bar), root(1.0 - alpha_bar)
        return signal * x_tau - spread * output, spread * x_tau + signal * output
