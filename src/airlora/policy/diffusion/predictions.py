"""Prediction types: the quantity that the network predicts.  `diffusion.prediction_type` chooses one by name."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from airlora.policy.diffusion.process import predict_noise, predict_x0, sqrt, velocity
from airlora.policy.registry import Registry

__all__ = ["PREDICTIONS", "EpsilonPrediction", "Prediction", "SamplePrediction", "VelocityPrediction"]


class Prediction(ABC):
    r"""Encoding of (x_0, epsilon) as one network output, linear in both at a given step.

    Samples and noise are float [N, D].  `alpha_bar` is \bar\alpha of the step, a number or float [N, 1].
    """

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:
        """Return the training target of the network, float [N, D]."""

    @abstractmethod
    def to_x0_and_noise(self, output: Tensor, x_tau: Tensor, alpha_bar: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return the estimates of x_0 and epsilon that follow from a network output, each float [N, D]."""


PREDICTIONS: Registry[type[Prediction]] = Registry("diffusion.prediction_type")


@PREDICTIONS.register("epsilon")
class EpsilonPrediction(Prediction):
    """The network predicts the noise epsilon.  Source: Ho et al. 2020 (arXiv:2006.11239)."""

    def target(self, x0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:  # noqa: ARG002
        """Return the noise."""
        return noise

    def to_x0_and_noise(self, output: Tensor, x_tau: Tensor, alpha_bar: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return x_0 by Eq. 14, and the output itself."""
        return predict_x0(x_tau, output, alpha_bar), output


@PREDICTIONS.register("sample")
class SamplePrediction(Prediction):
    """The network predicts x_0 (x0-prediction).  Source: Ramesh et al. 2022 (arXiv:2204.06125), section 2.2."""

    def target(self, x0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:  # noqa: ARG002
        """Return the clean sample."""
        return x0

    def to_x0_and_noise(self, output: Tensor, x_tau: Tensor, alpha_bar: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return the output itself, and the noise by Eq. 14."""
        return output, predict_noise(x_tau, output, alpha_bar)


@PREDICTIONS.register("v_prediction")
class VelocityPrediction(Prediction):
    """The network predicts v, of similar scale at every step.  Source: Salimans and Ho 2022 (arXiv:2202.00512)."""

    def target(self, x0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:
        """Return the velocity."""
        return velocity(x0, noise, alpha_bar)

    def to_x0_and_noise(self, output: Tensor, x_tau: Tensor, alpha_bar: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return x_0 and the noise by inverting the rotation that maps (x_0, epsilon) to (x_tau, v)."""
        signal, spread = sqrt(alpha_bar), sqrt(1.0 - alpha_bar)
        return signal * x_tau - spread * output, spread * x_tau + signal * output
