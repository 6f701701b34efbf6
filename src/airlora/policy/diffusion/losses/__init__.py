"""Losses of the diffusion stage, one module each.  The setting `diffusion.loss` chooses one by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from airlora.observation import Observation
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.registry import Registry
from airlora.policy.settings import DiffusionSettings
from airlora.policy.utility import UtilityPlanner

__all__ = ["LOSSES", "DiffusionBatch", "DiffusionLoss", "LossContext"]


@dataclass(frozen=True, slots=True)
class DiffusionBatch:
    """Batch of executed decisions.

    Args:
        x0: Executed ranks a~ in unit coordinates, float [N, D].
        condition: Conditions that the decisions were sampled with, float [N, C].
        reward: Rewards R of Eq. 10, float [N].
        advantage: Advantages in standard deviations, see `contextual_advantage`, float [N].
        budget: Parameters that the link carried before the deadline, float [N].
        text: Entries `TEXT_SLICE` of the state vectors (lexical entropy and OOV rate), float [N, 2].
    """

    x0: Tensor
    condition: Tensor
    reward: Tensor
    advantage: Tensor
    budget: Tensor
    text: Tensor

    def __len__(self) -> int:
        return len(self.x0)

    def __getitem__(self, rows: Tensor) -> DiffusionBatch:
        """Return the decisions with the given indices, int64 [n]."""
        return DiffusionBatch(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class LossContext:
    """Inputs of a loss that are available before the optimiser steps of a stage.

    Args:
        batch: All decisions that the minibatches are drawn from, oldest first.
        chains: Denoising chains of the n newest decisions, float [n, K + 1, D].  None if no chains were stored.
        observations: Observation of every decision of `batch`.
        encode: Function observations -> conditions of the diffusion model, float [N, C].
        planner: Utility planner of the policy.
    """

    batch: DiffusionBatch
    chains: Tensor | None
    observations: Sequence[Observation]
    encode: Callable[[Sequence[Observation]], Tensor]
    planner: UtilityPlanner


class DiffusionLoss(ABC):
    """Base class of the losses of the diffusion stage.

    A loss receives the whole model, so it can also sample from the model or differentiate through the denoising chain.
    A loss may keep state from stage to stage, such as a critic, and saves it in `state_dict`.

    Args:
        settings: Settings of the diffusion model and of the losses.
        sample_size: Number of adapted modules, D.
        condition_size: Length of a condition, C.
        seed: Seed of the loss's own initial weights and random draws.
    """

    needs_chains: ClassVar[bool] = False
    """Whether exploration must draw denoising chains and store them with the decisions."""

    uses_utility: bool = False
    """Whether the loss reads the utility model.  The planner then fits all configured forms of the model."""

    explores_by_plans: ClassVar[bool] = False
    """Whether the utility planner chooses a share of the patterns that are measured."""

    @abstractmethod
    def __init__(self, settings: DiffusionSettings, sample_size: int, condition_size: int, seed: int) -> None: ...

    def prepare(self, model: DiffusionModel, context: LossContext) -> dict[str, float]:  # noqa: ARG002
        """Update the loss's state before the optimiser steps of a stage; return metrics.

        Args:
            model: Diffusion model that the stage trains.
            context: Executed decisions and the policy's utility planner.
        """
        return {}

    @abstractmethod
    def __call__(self, model: DiffusionModel, batch: DiffusionBatch, generator: torch.Generator) -> Tensor:
        """Return the scalar loss of a batch.

        Args:
            model: Diffusion model that the stage trains.
            batch: Minibatch of executed decisions.
            generator: Torch generator on the CPU that draws noise and diffusion steps.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the loss keeps from stage to stage."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (most losses have no state)
        """Restore the state returned by `state_dict`."""


LOSSES: Registry[type[DiffusionLoss]] = Registry("diffusion.loss", __name__)
