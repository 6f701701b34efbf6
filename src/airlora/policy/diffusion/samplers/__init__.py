"""From noise to sample; one file each, registered under its `sampler`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from airlora.policy.diffusion.process import NoiseSchedule
from airlora.policy.registry import Registry
from airlora.policy.settings import DiffusionSettings

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
    def transition(
        self,
        schedule: NoiseSchedule,
        x_tau: Tensor,
        x0_hat: Tensor,
        noise_hat: Tensor,
        timestep: int,
        next_timestep: int,
    ) -> tuple[Tensor, float]:
        """Return mean and standard deviation of the sample one visited step less noisy.

        Args:
            schedule: The forward process.
            x_tau: Float [N, D], at `timestep`.
            x0_hat: The estimate of the clean sample, float [N, D].
            noise_hat: The estimate of the noise, float [N, D].
            timestep: tau.
            next_timestep: The step to arrive at, below `timestep`; -1 is the clean sample.
        """

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
        """Return a draw of the sample one visited step less noisy; arguments as `transition`."""
        mean, std = self.transition(schedule, x_tau, x0_hat, noise_hat, timestep, next_timestep)
        return mean + std * torch.randn(mean.shape, generator=generator).to(mean.device) if std > 0.0 else mean

    def visits(self, num_train_timesteps: int) -> list[tuple[int, int]]:
        """Return every visited step with the one that follows it; the last is followed by -1, the clean sample."""
        timesteps = self.timesteps(num_train_timesteps)
        return list(zip(timesteps, [*timesteps[1:], -1], strict=True))

    def sample(self, schedule: NoiseSchedule, denoise: Denoise, x_T: Tensor, generator: torch.Generator) -> Tensor:
        """Return x_0, float [N, D], by stepping from x_T through every visited step."""
        x = x_T
        for timestep, next_timestep in self.visits(schedule.num_train_timesteps):
            x0_hat, noise_hat = denoise(x, timestep)
            x = self.step(schedule, x, x0_hat, noise_hat, timestep, next_timestep, generator)
        return x


SAMPLERS: Registry[type[Sampler]] = Registry("diffusion.sampler", __name__)
