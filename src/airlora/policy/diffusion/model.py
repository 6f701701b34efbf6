"""Conditional diffusion model over vectors: backbone, forward process, prediction type, sampler and guidance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from airlora.policy.diffusion.backbones import BACKBONES
from airlora.policy.diffusion.guidance import drop_condition, guide, with_presence
from airlora.policy.diffusion.predictions import PREDICTIONS
from airlora.policy.diffusion.process import NoiseSchedule, add_noise
from airlora.policy.diffusion.samplers import SAMPLERS, Denoise
from airlora.policy.ppo_equations import gaussian_log_prob
from airlora.policy.settings import DiffusionSettings

__all__ = ["DiffusionModel"]


class DiffusionModel(nn.Module):
    """Denoising network f_psi with its training error and its sampler (section IV-B).

    Args:
        sample_size: Length of a sample, D; samples lie in [-1, 1].
        condition_size: Length of a condition, C.
        settings: Settings of the backbone, the forward process, the sampler and the guidance.

    Raises:
        PolicyError: The settings name an unknown backbone, schedule, prediction type or sampler.
    """

    def __init__(self, sample_size: int, condition_size: int, settings: DiffusionSettings) -> None:
        super().__init__()
        self.sample_size = sample_size
        self.condition_dropout = settings.condition_dropout
        self.guidance_scale = settings.guidance_scale
        self.min_std = settings.min_std
        self.schedule = NoiseSchedule.make(
            settings.beta_schedule, settings.num_train_timesteps, settings.beta_start, settings.beta_end
        )
        self.prediction = PREDICTIONS[settings.prediction_type]()
        self.sampler = SAMPLERS[settings.sampler].from_settings(settings)
        # `with_presence` appends one entry to the condition.
        self.backbone = BACKBONES[settings.backbone](sample_size, condition_size + 1, settings)
        self._training_timestep: int | None = None

    @contextmanager
    def at_timestep(self, timestep: int | None) -> Iterator[None]:
        """Let `error_and_x0` noise all samples at one diffusion step within a `with` block.

        Args:
            timestep: Diffusion step. None draws one for every sample, as outside the block.
        """
        former, self._training_timestep = self._training_timestep, timestep
        try:
            yield
        finally:
            self._training_timestep = former

    def squared_error(self, x0: Tensor, condition: Tensor, generator: torch.Generator) -> Tensor:
        """Return the denoising error of `error_and_x0`, float [N]."""
        return self.error_and_x0(x0, condition, generator)[0]

    def error_and_x0(self, x0: Tensor, condition: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        r"""Return the denoising error of each sample at a random step, and the estimate of x_0.

        The error is the first term of Eq. 19.  Eq. 14 adds noise to each x_0 at a step that is drawn uniformly, or at
        that of `at_timestep`.  A condition is dropped with probability `condition_dropout`.  The squared error between
        the network's output and its target is averaged over the D entries.

        Args:
            x0: Clean samples, float [N, D].
            condition: Conditions, float [N, C].
            generator: Torch generator on the CPU that draws the steps, the noise and the dropped conditions.

        Returns:
            Error, float [N], and x0_hat, float [N, D].
        """
        count, device = len(x0), x0.device
        if self._training_timestep is None:
            timesteps = torch.randint(self.schedule.num_train_timesteps, (count,), generator=generator).to(device)
        else:
            timesteps = torch.full((count,), self._training_timestep, device=device)
        noise = torch.randn(x0.shape, generator=generator).to(device)
        present = drop_condition(count, self.condition_dropout, generator).to(device)
        alpha_bar = self.schedule.alpha_bars(timesteps)
        x_tau = add_noise(x0, noise, alpha_bar)
        output = self.backbone(x_tau, timesteps, with_presence(condition, present))
        error: Tensor = output - self.prediction.target(x0, noise, alpha_bar)
        return error.square().mean(-1), self.prediction.to_x0_and_noise(output, x_tau, alpha_bar)[0]

    def denoiser(self, condition: Tensor) -> Denoise:
        """Return the function (x_tau, tau) -> guided estimates of x_0 and of the noise, each float [N, D].

        Args:
            condition: Conditions of the samples, float [N, C].
        """
        present = torch.ones(len(condition), dtype=torch.bool, device=condition.device)
        conditional, unconditional = with_presence(condition, present), with_presence(condition, ~present)

        def denoise(x_tau: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
            timesteps = torch.full((len(x_tau),), timestep, device=x_tau.device)
            if self.guidance_scale == 1.0:
                output = self.backbone(x_tau, timesteps, conditional)
            elif self.guidance_scale == 0.0:
                output = self.backbone(x_tau, timesteps, unconditional)
            else:
                output = guide(
                    self.backbone(x_tau, timesteps, unconditional),
                    self.backbone(x_tau, timesteps, conditional),
                    self.guidance_scale,
                )
            return self.prediction.to_x0_and_noise(output, x_tau, self.schedule.alpha_bar(timestep))

        return denoise

    @torch.no_grad()
    def sample(self, condition: Tensor, generator: torch.Generator) -> Tensor:
        """Return one sample per condition, float [N, D].

        Args:
            condition: Conditions, float [N, C].
            generator: Torch generator that draws x_T and the sampler's noise.  It must be on the CPU, so that a seed
                gives the same draws on every device.
        """
        x_T = torch.randn(len(condition), self.sample_size, generator=generator).to(condition.device)
        return self.sampler.sample(self.schedule, self.denoiser(condition), x_T, generator)

    @torch.no_grad()
    def sample_chain(self, condition: Tensor, generator: torch.Generator) -> Tensor:
        """Return the denoising chains of K inference steps from x_T to x_0, float [N, K + 1, D].

        The noise of every step has a standard deviation of at least `min_std`.

        Args:
            condition: Conditions, float [N, C].
            generator: Torch generator on the CPU that draws x_T and the noise of every step.
        """
        denoise = self.denoiser(condition)
        chain = [torch.randn(len(condition), self.sample_size, generator=generator).to(condition.device)]
        for timesteps in self.sampler.timestep_pairs(self.schedule.num_train_timesteps):
            mean, std = self._transition(denoise, chain[-1], *timesteps)
            chain.append(mean + std * torch.randn(mean.shape, generator=generator).to(mean.device))
        return torch.stack(chain, dim=1)

    def chain_log_prob(self, chain: Tensor, condition: Tensor) -> Tensor:
        """Return the log density of each step of denoising chains, float [N, K], summed over the D entries.

        Args:
            chain: Denoising chains as drawn by `sample_chain`, float [N, K + 1, D].
            condition: Conditions that the chains were drawn with, float [N, C].
        """
        denoise = self.denoiser(condition)
        log_probs = []
        for index, timesteps in enumerate(self.sampler.timestep_pairs(self.schedule.num_train_timesteps)):
            mean, std = self._transition(denoise, chain[:, index], *timesteps)
            log_std = torch.full_like(mean[0], math.log(std))
            log_probs.append(gaussian_log_prob(chain[:, index + 1], mean, log_std))
        return torch.stack(log_probs, dim=1)

    def _transition(self, denoise: Denoise, x_tau: Tensor, timestep: int, next_timestep: int) -> tuple[Tensor, float]:
        mean, std = self.sampler.transition(self.schedule, x_tau, *denoise(x_tau, timestep), timestep, next_timestep)
        return mean, max(std, self.min_std)
