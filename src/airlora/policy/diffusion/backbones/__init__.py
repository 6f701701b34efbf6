"""Denoising networks; one file each, registered under its `backbone`."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from airlora.policy.registry import Registry
from airlora.policy.settings import DiffusionSettings

__all__ = ["BACKBONES", "Backbone"]


class Backbone(nn.Module, ABC):
    """f_psi: a noisy sample, its step and a condition in; a prediction of the sample's length out.

    Args:
        sample_size: D, length of a sample.
        condition_size: C, length of the condition.
        settings: See `DiffusionSettings`.
    """

    @abstractmethod
    def __init__(self, sample_size: int, condition_size: int, settings: DiffusionSettings) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, x_tau: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Return the prediction, float [N, D], for float [N, D], int64 [N] and float [N, C]."""


BACKBONES: Registry[type[Backbone]] = Registry("diffusion.backbone", __name__)
