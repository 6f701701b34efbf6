"""What the network is asked for; one file each, registered under its `prediction_type`."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from airlora.policy.registry import Registry

__all__ = ["PREDICTIONS", "Prediction"]


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


PREDICTIONS: Registry[type[Prediction]] = Registry("diffusion.prediction_type", __name__)
