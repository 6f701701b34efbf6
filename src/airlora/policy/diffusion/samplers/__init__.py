"""From noise to sample; one file each, registered under its `sampler`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from airlora.config import DiffusionSettings
from airlora.policy.diffusion.process import NoiseSchedule
from airlora.policy.registry import Registry

__all__ = ["SAMPLERS", "Denoise", "Sampler"]

Denoise = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(x_tau, tau) -> (x0_hat, epsilon_hat), all float [N, D]."""


class Sampler(ABC):
    """A way back from x_T to x_0."""

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: DiffusionSettings) -> Sampler:
        """Return the sampler that the settings describe."""

    @abstractmethod
    def timesteps(self, num_train_timesteps: int) -> list[int]:
        """Return the diffusion steps to visit, noisiest first."""

    @abstractmethod
    def step(
        self,
        schedule: NoiseSchedule,
        x_tau: Tensor,
        x0_hat: Tensor,
        noise_hat: Tensor,
        timestep: int,
        next_timestep: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the sample one visited step less noisy.

        Args:
            schedule: The forward process.
            x_tau: Float [N, D], at `timestep`.
            x0_hat: The estimate of the clean sample, float [N, D].
            noise_hat: The estimate of the noise, float [N, D].
            timestep: tau.
            next_timestep: The step to arrive at, below `timestep`; -1 is the clean sample.
            generator: For samplers that add noise.
        """

    def sample(self, schedule: NoiseSchedule, denoise: Denoise, x_T: Tensor, generator: torch.Generator) -> Tensor:
        """Return x_0, float [N, D], by stepping from x_T through every visited step."""
        x = x_T
        timesteps = self.timesteps(schedule.num_train_timesteps)
        for timestep, next_timestep in zip(timesteps, [*timesteps[1:], -1], strict=True):
            x0_hat, noise_hat = denoise(x, timestep)
            x = self.step(schedule, x, x0_hat, noise_hat, timestep, next_timestep, generator)
        return x


SAMPLERS: Registry[type[Sampler]] = Registry("diffusion.sampler", __name__)
