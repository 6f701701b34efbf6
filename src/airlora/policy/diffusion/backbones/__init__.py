"""Denoising networks, one module each.  The setting `diffusion.backbone` chooses one by name."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from airlora.policy.registry import Registry
from airlora.policy.settings import DiffusionSettings

__all__ = ["BACKBONES", "Backbone"]


class Backbone(nn.Module, ABC):
    """Denoising network f_psi: predicts a vector of length D from a noisy sample, its step and a condition.

    Args:
        sample_size: Length of a sample, D.
        condition_size: Length of a condition, C, with the presence flag.
        settings: Settings of the network's size.
    """

    @abstractmethod
    def __init__(self, sample_size: int, condition_size: int, settings: DiffusionSettings) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, x_tau: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Return the predictions, float [N, D].

        Args:
            x_tau: Noisy samples, float [N, D].
            timesteps: Diffusion step of each sample, int64 [N].
            condition: Conditions, float [N, C].
        """


BACKBONES: Registry[type[Backbone]] = Registry("diffusion.backbone", __name__)
