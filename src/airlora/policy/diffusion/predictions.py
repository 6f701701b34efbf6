"""What the network is asked for; one file each, registered under its `prediction_type`."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from airlora.policy.diffusion.process import predict_noise, predict_x0, root, velocity
from airlora.policy.registry import Registry

__all__ = ["PREDICTIONS", "EpsilonPrediction", "Prediction", "SamplePrediction", "VelocityPrediction"]


class Prediction(ABC):
    r"""A way to write (x_0, epsilon) as one network output; linear in both for a given step.

    Samples are float [N, D]; alpha_bar is a number or float [N, 1].
    """

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:
        """Return what the network should have said, float [N, D]."""

    @abstractmethod
    def to_x0_and_noise(self, output: Tensor, x_tau: Tensor, alpha_bar: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return the clean sample and the noise that the output stands for, each float [N, D]."""


PREDICTIONS: Registry[type[Prediction]] = Registry("diffusion.prediction_type")


@PREDICTIONS.register("epsilon")
class EpsilonPrediction(Prediction):
    """The output is epsilon.  Source: Ho et al. 2020 (arXiv:2006.11239)."""

    def target(self, x0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:  # noqa: ARG002
        """Return the noise."""
        return noise

    def to_x0_and_noise(self, output: Tensor, x_tau: Tensor, alpha_bar: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return x_0 by Eq. 14, and the output."""
        return predict_x0(x_tau, output, alpha_bar), output


@PREDICTIONS.register("sample")
class SamplePrediction(Prediction):
    """The output is x_0, the paper's x0-prediction.  Source: Ramesh et al. 2022 (arXiv:2204.06125), section 2.2."""

    def target(self, x0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:  # noqa: ARG002
        """Return the clean sample."""
        return x0

    def to_x0_and_noise(self, output: Tensor, x_tau: Tensor, alpha_bar: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return the output, and the noise by Eq. 14."""
        return output, predict_noise(x_tau, output, alpha_bar)


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
