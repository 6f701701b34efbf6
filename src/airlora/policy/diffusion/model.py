"""A conditional diffusion model over vectors: backbone, forward process, prediction type, sampler and guidance."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from airlora.policy.diffusion.backbones import BACKBONES
from airlora.policy.diffusion.guidance import drop_condition, guide, with_presence
from airlora.policy.diffusion.predictions import PREDICTIONS
from airlora.policy.diffusion.process import NoiseSchedule, add_noise
from airlora.policy.diffusion.samplers import SAMPLERS, Denoise
from airlora.policy.gaussian import gaussian_log_prob
from airlora.policy.settings import DiffusionSettings

__all__ = ["DiffusionModel"]


class DiffusionModel(nn.Module):
    """f_psi with everything that trains it and samples from it (IV-B).

    Args:
        sample_size: D, length of a sample; the samples lie in [-1, 1].
        condition_size: C, length of the condition.
        settings: See `DiffusionSettings`.

    Raises:
        PolicyError: A part that the settings name does not exist.
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
        # One more for the flag of `with_presence`.
        self.backbone = BACKBONES[settings.backbone](sample_size, condition_size + 1, settings)

    def squared_error(self, x0: Tensor, condition: Tensor, generator: torch.Generator) -> Tensor:
        """Return the first part of `error_and_x0`, float [N]."""
        return self.error_and_x0(x0, condition, generator)[0]

    def error_and_x0(self, x0: Tensor, condition: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        r"""Return the denoising error of each sample at a random step, averaged over its D entries, and x0_hat.

        The first term of Eq. 19: each x_0 is noised by Eq. 14 at a step drawn uniformly, its condition is dropped now
        and then, and the network's output is compared with its target.

        Args:
            x0: Float [N, D].
            condition: Float [N, C].
            generator: Of steps, noise and dropped conditions; on the CPU.

        Returns:
            The error, float [N], and the clean sample that the network's output stands for, float [N, D].
        """
        count, device = len(x0), x0.device
        timesteps = torch.randint(self.schedule.num_train_timesteps, (count,), generator=generator).to(device)
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
            condition: Float [N, C].
        """
        there = torch.ones(len(condition), dtype=torch.bool, device=condition.device)
        conditional, unconditional = with_presence(condition, there), with_presence(condition, ~there)

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
        """Return one sample per condition, float [N, D], from x_T drawn from the generator.

        Args:
            condition: Float [N, C].
            generator: On the CPU, so that a seed means the same on any device.
        """
        x_T = torch.randn(len(condition), self.sample_size, generator=generator).to(condition.device)
        return self.sampler.sample(self.schedule, self.denoiser(condition), x_T, generator)

    @torch.no_grad()
    def sample_chain(self, condition: Tensor, generator: torch.Generator) -> Tensor:
        """Return every state of the way from x_T to x_0, float [N, K + 1, D]; K steps, each noisy by `min_std` or more.

        Args:
            condition: Float [N, C].
            generator: On the CPU.
        """
        denoise = self.denoiser(condition)
        chain = [torch.randn(len(condition), self.sample_size, generator=generator).to(condition.device)]
        for visit in self.sampler.visits(self.schedule.num_train_timesteps):
            mean, std = self._transition(denoise, chain[-1], *visit)
            chain.append(mean + std * torch.randn(mean.shape, generator=generator).to(mean.device))
        return torch.stack(chain, dim=1)

    def chain_log_prob(self, chain: Tensor, condition: Tensor) -> Tensor:
        """Return ln p of every step of chains that `sample_chain` drew, float [N, K], summed over the D entries.

        Args:
            chain: Float [N, K + 1, D].
            condition: Float [N, C].
        """
        denoise = self.denoiser(condition)
        steps = []
        for index, visit in enumerate(self.sampler.visits(self.schedule.num_train_timesteps)):
            mean, std = self._transition(denoise, chain[:, index], *visit)
            log_std = torch.full_like(mean[0], math.log(std))
            steps.append(gaussian_log_prob(chain[:, index + 1], mean, log_std))
        return torch.stack(steps, dim=1)

    def _transition(self, denoise: Denoise, x_tau: Tensor, timestep: int, next_timestep: int) -> tuple[Tensor, float]:
        mean, std = self.sampler.transition(self.schedule, x_tau, *denoise(x_tau, timestep), timestep, next_timestep)
        return mean, max(std, self.min_std)
