"""What the diffusion stage minimises; one file each, registered under its `loss`."""

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
from airlora.policy.utility import Advisor

__all__ = ["LOSSES", "DiffusionBatch", "DiffusionLoss", "LossContext"]


@dataclass(frozen=True, slots=True)
class DiffusionBatch:
    """Executed decisions to learn from.

    Args:
        x0: a~ in unit coordinates, float [N, D].
        condition: What the sampler was told, float [N, C].
        reward: R of Eq. 10, float [N].
        advantage: The reward less what was to be expected in that state, in standard deviations, float [N].
        budget: What the link carried, numbers, float [N].
        text: Text state as the state's vector has it, float [N, 2].
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
        """Return the rows of these indices, int64 [n]."""
        return DiffusionBatch(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class LossContext:
    """What a loss may look at before a stage's steps.

    Args:
        batch: All decisions that the stage draws from, oldest first.
        chains: The newest decisions' ways from x_T to x_0, float [n, K + 1, D]; only for losses that need them.
        observations: The state of every decision of `batch`.
        encode: Observations -> what the sampler is told, float [N, C].
        advisor: The policy's utility model.
    """

    batch: DiffusionBatch
    chains: Tensor | None
    observations: Sequence[Observation]
    encode: Callable[[Sequence[Observation]], Tensor]
    advisor: Advisor


class DiffusionLoss(ABC):
    """A scalar to minimise.

    A loss is given the whole model, so that it may also sample, differentiate through the denoising chain, or keep a
    critic or a memory of its own, which it saves.

    Args:
        settings: See `DiffusionSettings`.
        sample_size: D.
        condition_size: C.
        seed: Of whatever it draws or initialises itself.
    """

    needs_chains: ClassVar[bool] = False
    """Whether decisions must be drawn step by step and remembered with every step."""

    uses_utility: bool = False
    """Whether it looks at the utility model, which is then the full one."""

    explores_by_plans: ClassVar[bool] = False
    """Whether the utility model chooses a share of the patterns that are measured."""

    @abstractmethod
    def __init__(self, settings: DiffusionSettings, sample_size: int, condition_size: int, seed: int) -> None: ...

    def prepare(self, model: DiffusionModel, context: LossContext) -> dict[str, float]:  # noqa: ARG002
        """Look at what was measured, once before the steps of a stage; return what there is to report."""
        return {}

    @abstractmethod
    def __call__(self, model: DiffusionModel, batch: DiffusionBatch, generator: torch.Generator) -> Tensor:
        """Return the loss on a batch, a scalar; noise and steps are drawn from the generator."""

    def state_dict(self) -> dict[str, Any]:
        """Return what it keeps from stage to stage."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (most keep nothing)
        """Continue from `state_dict`."""


LOSSES: Registry[type[DiffusionLoss]] = Registry("diffusion.loss", __name__)
