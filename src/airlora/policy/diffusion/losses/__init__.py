"""What the diffusion stage minimises; one file each, registered under its `loss`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from airlora.config import DiffusionSettings
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.registry import Registry

__all__ = ["LOSSES", "DiffusionBatch", "DiffusionLoss"]


@dataclass(frozen=True, slots=True)
class DiffusionBatch:
    """Executed decisions to learn from.

    Args:
        x0: a~ in unit coordinates, float [N, D].
        condition: What the sampler was told, float [N, C].
        reward: R of Eq. 10, float [N].
        advantage: The reward less what was to be expected in that state, in standard deviations, float [N].
    """

    x0: Tensor
    condition: Tensor
    reward: Tensor
    advantage: Tensor

    def __len__(self) -> int:
        return len(self.x0)

    def __getitem__(self, rows: Tensor) -> DiffusionBatch:
        """Return the rows of these indices, int64 [n]."""
        return DiffusionBatch(self.x0[rows], self.condition[rows], self.reward[rows], self.advantage[rows])


class DiffusionLoss(ABC):
    """A scalar to minimise.

    A loss is given the whole model, so that it may also sample, differentiate through the denoising chain, or keep a
    critic of its own.

    Args:
        settings: See `DiffusionSettings`.
    """

    @abstractmethod
    def __init__(self, settings: DiffusionSettings) -> None: ...

    @abstractmethod
    def __call__(self, model: DiffusionModel, batch: DiffusionBatch, generator: torch.Generator) -> Tensor:
        """Return the loss on a batch, a scalar; noise and steps are drawn from the generator."""


LOSSES: Registry[type[DiffusionLoss]] = Registry("diffusion.loss", __name__)
