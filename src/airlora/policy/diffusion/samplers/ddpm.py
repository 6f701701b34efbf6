"""Sampler "ddpm" (Eq. 16): ancestral sampling, a draw from the posterior at every step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from airlora.policy.diffusion.process import NoiseSchedule
from airlora.policy.diffusion.samplers import SAMPLERS, Sampler
from airlora.policy.diffusion.samplers.spacing import spaced_timesteps
from airlora.policy.settings import DiffusionSettings

__all__ = ["DDPMSampler"]


@SAMPLERS.register("ddpm")
@dataclass(frozen=True)
class DDPMSampler(Sampler):
    r"""Denoising diffusion probabilistic model: x_{\tau'} drawn from q(x_{\tau'} | x_\tau, \hat x_0) (Eq. 16).

    $$x_{\tau'} = \frac{\sqrt{\bar\alpha_{\tau'}}\,(1 - \alpha)}{1 - \bar\alpha_\tau}\, \hat x_0
      + \frac{\sqrt{\alpha}\,(1 - \bar\alpha_{\tau'})}{1 - \bar\alpha_\tau}\, x_\tau + \sigma \epsilon, \qquad
      \alpha = \frac{\bar\alpha_\tau}{\bar\alpha_{\tau'}}, \quad
      \sigma^2 = \frac{1 - \bar\alpha_{\tau'}}{1 - \bar\alpha_\tau} (1 - \alpha)$$

    The mean is Eq. 16 with Eq. 14 put in for \hat\epsilon (see `posterior_mean`), which lets \hat x_0 be clipped and
    divides by no small \sqrt{\bar\alpha}.  alpha spans the steps that are skipped, so that any number of steps is a
    draw from the right posterior.

    | code | paper |
    |---|---|
    | x0_hat | \hat x_0, by the true Eq. 14 and not by Eq. 16 (erratum 2) |
    | alpha | \alpha_tau where no step is skipped |
    | alpha_bar, next_alpha_bar | \bar\alpha_tau, \bar\alpha_tau' |
    | variance | \sigma^2, the true posterior's; `fixed_small` in diffusers |

    Args:
        num_inference_steps: T_diff, steps visited.
        clip_sample: Keep x0_hat within [-1, 1], where ranks live.
        spacing: See `spaced_timesteps`.

    Source: AirLLM Eq. 16; Ho et al. 2020 (arXiv:2006.11239) Eq. 6 and 7, Algorithm 2.
    """

    num_inference_steps: int
    clip_sample: bool = True
    spacing: str = "linspace"

    @classmethod
    def from_settings(cls, settings: DiffusionSettings) -> Self:
        """Return the sampler that the settings describe."""
        return cls(settings.num_inference_steps, settings.clip_sample, settings.timestep_spacing)

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
        """Return the posterior of x at `next_timestep`; the step to the clean sample adds no noise."""
        alpha_bar, next_alpha_bar = schedule.alpha_bar(timestep), schedule.alpha_bar(next_timestep)
        alpha = alpha_bar / next_alpha_bar
        if self.clip_sample:
            x0_hat = x0_hat.clamp(-1.0, 1.0)
        x0_share = math.sqrt(next_alpha_bar) * (1.0 - alpha) / (1.0 - alpha_bar)
        x_tau_share = math.sqrt(alpha) * (1.0 - next_alpha_bar) / (1.0 - alpha_bar)
        variance = (1.0 - next_alpha_bar) / (1.0 - alpha_bar) * (1.0 - alpha)
        return x0_share * x0_hat + x_tau_share * x_tau, math.sqrt(variance)
