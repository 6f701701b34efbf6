"""Samplers: the reverse process from noise to a sample.  The setting `diffusion.sampler` chooses one by name."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from airlora.errors import PolicyError
from airlora.policy.diffusion.process import NoiseSchedule, posterior_mean, predict_noise
from airlora.policy.registry import Registry
from airlora.policy.settings import DiffusionSettings

__all__ = ["SAMPLERS", "SPACINGS", "DDIMSampler", "DDPMSampler", "Denoise", "Sampler", "spaced_timesteps"]

Denoise = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Denoiser (x_tau, tau) -> estimates (x0_hat, epsilon_hat); samples are float [N, D]."""


class Sampler(ABC):
    """Reverse diffusion process, which turns noise x_T into a sample x_0."""

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: DiffusionSettings) -> Sampler:
        """Return the sampler that the settings describe."""

    @abstractmethod
    def timesteps(self, num_train_timesteps: int) -> list[int]:
        """Return the inference steps, noisiest first; all are below `num_train_timesteps`."""

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
        """Return mean, float [N, D], and standard deviation of the Gaussian of x at `next_timestep`.

        Args:
            schedule: Noise schedule of the forward process.
            x_tau: Noisy samples at `timestep`, float [N, D].
            x0_hat: Estimates of the clean samples, float [N, D].
            noise_hat: Estimates of the noise, float [N, D].
            timestep: Current step tau.
            next_timestep: Next inference step, below `timestep`; -1 is the clean sample.
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
        """Return a draw of x at `next_timestep`, float [N, D]; arguments as in `transition`."""
        mean, std = self.transition(schedule, x_tau, x0_hat, noise_hat, timestep, next_timestep)
        return mean + std * torch.randn(mean.shape, generator=generator).to(mean.device) if std > 0.0 else mean

    def timestep_pairs(self, num_train_timesteps: int) -> list[tuple[int, int]]:
        """Return all pairs (step, next step) of the inference steps; the last next step is -1, the clean sample."""
        timesteps = self.timesteps(num_train_timesteps)
        return list(zip(timesteps, [*timesteps[1:], -1], strict=True))

    def sample(self, schedule: NoiseSchedule, denoise: Denoise, x_T: Tensor, generator: torch.Generator) -> Tensor:
        """Return samples x_0, float [N, D].

        Args:
            schedule: Noise schedule of the forward process.
            denoise: Denoiser of the samples.
            x_T: Standard normal noise, float [N, D].
            generator: Torch generator on the CPU that draws the noise of each step.
        """
        x = x_T
        for timestep, next_timestep in self.timestep_pairs(schedule.num_train_timesteps):
            x0_hat, noise_hat = denoise(x, timestep)
            x = self.step(schedule, x, x0_hat, noise_hat, timestep, next_timestep, generator)
        return x


SAMPLERS: Registry[type[Sampler]] = Registry("diffusion.sampler")


SPACINGS = ("leading", "linspace", "trailing")


def spaced_timesteps(num_train_timesteps: int, num_inference_steps: int, spacing: str) -> list[int]:
    """Return the inference steps, noisiest first.

    Args:
        num_train_timesteps: Number of steps of the forward process, T.
        num_inference_steps: Number of inference steps n, 1 to T.
        spacing: Placement of the inference steps.  `leading` takes every (T // n)-th step from 0, as in Song et al.; it
            leaves out the noisiest step.  `linspace` spreads the steps evenly from T - 1 to 0.  `trailing` takes every
            (T / n)-th step down from T - 1; the last stride, to the clean sample, has the same length as the others.

    Raises:
        PolicyError: The spacing is unknown, or the number of inference steps is out of range.

    Source: Lin et al. 2024 (arXiv:2305.08891), table 2.

    Examples:
        >>> spaced_timesteps(1000, 4, "leading"), spaced_timesteps(1000, 4, "linspace")
        ([750, 500, 250, 0], [999, 666, 333, 0])
        >>> spaced_timesteps(1000, 4, "trailing")
        [999, 749, 499, 249]
    """
    if not 1 <= num_inference_steps <= num_train_timesteps:
        raise PolicyError.of("num_inference_steps", num_inference_steps, f"1 to {num_train_timesteps}")
    if spacing == "leading":
        stride = num_train_timesteps // num_inference_steps
        return [stride * index for index in reversed(range(num_inference_steps))]
    if spacing == "linspace":
        if num_inference_steps == 1:
            return [num_train_timesteps - 1]
        return [int(step) for step in np.linspace(0, num_train_timesteps - 1, num_inference_steps).round()[::-1]]
    if spacing == "trailing":
        # Each step takes one division of integers: repeated subtraction of a float stride may end below step 0.
        indices = range(num_inference_steps, 0, -1)
        return [round(index * num_train_timesteps / num_inference_steps) - 1 for index in indices]
    raise PolicyError.of("spacing", spacing, f"one of {', '.join(SPACINGS)}")


@SAMPLERS.register("ddim")
@dataclass(frozen=True)
class DDIMSampler(Sampler):
    r"""Denoising diffusion implicit model (Eq. 17).

    $$x_{\tau'} = \sqrt{\bar\alpha_{\tau'}}\, \hat x_0
      + \sqrt{1 - \bar\alpha_{\tau'} - \sigma_\tau^2}\; \hat\epsilon + \sigma_\tau \epsilon, \qquad
      \sigma_\tau = \eta \sqrt{\frac{1 - \bar\alpha_{\tau'}}{1 - \bar\alpha_\tau}
      \left(1 - \frac{\bar\alpha_\tau}{\bar\alpha_{\tau'}}\right)}$$

    | code | paper |
    |---|---|
    | x0_hat | \hat x_0, by Eq. 14; by Eq. 16 with `x0_estimate = "posterior_mean"` (erratum 2) |
    | noise_hat | \hat\epsilon = f_psi |
    | alpha_bar, next_alpha_bar | \bar\alpha_tau, \bar\alpha_tau' |
    | sigma | \sigma_tau |

    Args:
        num_inference_steps: Number of inference steps, T_diff.
        eta: Noise of each step, 0 to 1.  0 is deterministic given x_T, 1 has the noise of DDPM.
        clip_sample: Whether x0_hat is clipped to [-1, 1], the range of ranks in unit coordinates.  The noise estimate
            is recomputed from the clipped x0_hat.
        spacing: Placement of the inference steps, see `spaced_timesteps`.
        x0_estimate: Estimate of x_0 in Eq. 17.  `exact` is x0_hat as the denoiser returns it.  `posterior_mean` is
            Eq. 16 at the noise estimate, as the paper prints it.

    Source: AirLLM Eq. 17; Song et al. 2021 (arXiv:2010.02502) Eq. 12 and 16.
    """

    num_inference_steps: int
    eta: float = 0.0
    clip_sample: bool = True
    spacing: str = "linspace"
    x0_estimate: Literal["exact", "posterior_mean"] = "exact"

    @classmethod
    def from_settings(cls, settings: DiffusionSettings) -> Self:
        """Return the sampler that the settings describe."""
        return cls(
            settings.num_inference_steps,
            settings.eta,
            settings.clip_sample,
            settings.timestep_spacing,
            settings.x0_estimate,
        )

    def timesteps(self, num_train_timesteps: int) -> list[int]:
        """Return the diffusion steps to visit, noisiest first."""
        return spaced_timesteps(num_train_timesteps, self.num_inference_steps, self.spacing)

    def transition(
        self,
        schedule: NoiseSchedule,
        x_tau: Tensor,
        x0_hat: Tensor,
        noise_hat: Tensor,
        timestep: int,
        next_timestep: int,
    ) -> tuple[Tensor, float]:
        """Return mean and sigma of x at `next_timestep` (Eq. 17)."""
        alpha_bar, next_alpha_bar = schedule.alpha_bar(timestep), schedule.alpha_bar(next_timestep)
        if self.x0_estimate == "posterior_mean":
            x0_hat = posterior_mean(x_tau, noise_hat, float(schedule.alphas[timestep]), alpha_bar)
        if self.clip_sample:
            x0_hat = x0_hat.clamp(-1.0, 1.0)
            noise_hat = predict_noise(x_tau, x0_hat, alpha_bar)
        variance = (1.0 - next_alpha_bar) / (1.0 - alpha_bar) * (1.0 - alpha_bar / next_alpha_bar)
        sigma = self.eta * math.sqrt(variance)
        # At eta = 1 rounding may make the difference slightly negative.
        direction = math.sqrt(max(1.0 - next_alpha_bar - sigma * sigma, 0.0)) * noise_hat
        return math.sqrt(next_alpha_bar) * x0_hat + direction, sigma


@SAMPLERS.register("ddpm")
@dataclass(frozen=True)
class DDPMSampler(Sampler):
    r"""Denoising diffusion probabilistic model: x_{\tau'} drawn from q(x_{\tau'} | x_\tau, \hat x_0) (Eq. 16).

    $$x_{\tau'} = \frac{\sqrt{\bar\alpha_{\tau'}}\,(1 - \alpha)}{1 - \bar\alpha_\tau}\, \hat x_0
      + \frac{\sqrt{\alpha}\,(1 - \bar\alpha_{\tau'})}{1 - \bar\alpha_\tau}\, x_\tau + \sigma \epsilon, \qquad
      \alpha = \frac{\bar\alpha_\tau}{\bar\alpha_{\tau'}}, \quad
      \sigma^2 = \frac{1 - \bar\alpha_{\tau'}}{1 - \bar\alpha_\tau} (1 - \alpha)$$

    The mean is Eq. 16 after substituting Eq. 14 for \hat\epsilon (see `posterior_mean`).  In this form \hat x_0 can be
    clipped, and there is no division by a small \sqrt{\bar\alpha}.  alpha covers the skipped steps, so the posterior is
    exact for any number of inference steps.

    | code | paper |
    |---|---|
    | x0_hat | \hat x_0, by Eq. 14 instead of Eq. 16 (erratum 2) |
    | alpha | \alpha_tau where no step is skipped |
    | alpha_bar, next_alpha_bar | \bar\alpha_tau, \bar\alpha_tau' |
    | variance | \sigma^2 of the true posterior; `fixed_small` in diffusers |

    Args:
        num_inference_steps: Number of inference steps, T_diff.
        clip_sample: Whether x0_hat is clipped to [-1, 1], the range of ranks in unit coordinates.
        spacing: Placement of the inference steps, see `spaced_timesteps`.

    Source: AirLLM Eq. 16; Ho et al. 2020 (arXiv:2006.11239) Eq. 6 and 7, Algorithm 2.
    """

    num_inference_steps: int
    clip_sample: bool = True
    spacing: str = "linspace"

    @classmethod
    def from_settings(cls, settings: DiffusionSettings) -> Self:
        """Return the sampler that the settings describe."""
        num_steps = settings.num_train_timesteps if settings.all_ddpm_steps else settings.num_inference_steps
        return cls(num_steps, settings.clip_sample, settings.timestep_spacing)

    def timesteps(self, num_train_timesteps: int) -> list[int]:
        """Return the diffusion steps to visit, noisiest first."""
        return spaced_timesteps(num_train_timesteps, self.num_inference_steps, self.spacing)

    def transition(
        self,
        schedule: NoiseSchedule,
        x_tau: Tensor,
        x0_hat: Tensor,
        noise_hat: Tensor,  # noqa: ARG002
        timestep: int,
        next_timestep: int,
    ) -> tuple[Tensor, float]:
        """Return mean and sigma of the posterior of x at `next_timestep`; sigma is 0 for the clean sample."""
        alpha_bar, next_alpha_bar = schedule.alpha_bar(timestep), schedule.alpha_bar(next_timestep)
        alpha = alpha_bar / next_alpha_bar
        if self.clip_sample:
            x0_hat = x0_hat.clamp(-1.0, 1.0)
        x0_share = math.sqrt(next_alpha_bar) * (1.0 - alpha) / (1.0 - alpha_bar)
        x_tau_share = math.sqrt(alpha) * (1.0 - next_alpha_bar) / (1.0 - alpha_bar)
        variance = (1.0 - next_alpha_bar) / (1.0 - alpha_bar) * (1.0 - alpha)
        return x0_share * x0_hat + x_tau_share * x_tau, math.sqrt(variance)
