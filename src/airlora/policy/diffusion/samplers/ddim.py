"""Sampler "ddim" (Eq. 17): few steps, deterministic unless asked otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from airlora.policy.diffusion.process import NoiseSchedule, predict_noise
from airlora.policy.diffusion.samplers import SAMPLERS, Sampler
from airlora.policy.diffusion.samplers.spacing import spaced_timesteps
from airlora.policy.settings import DiffusionSettings

__all__ = ["DDIMSampler"]


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
    | x0_hat | \hat x_0, by the true Eq. 14 and not by Eq. 16 (erratum 2) |
    | noise_hat | \hat\epsilon = f_psi |
    | alpha_bar, next_alpha_bar | \bar\alpha_tau, \bar\alpha_tau' |
    | sigma | \sigma_tau |

    Args:
        num_inference_steps: T_diff, steps visited.
        eta: 0: deterministic given x_T; 1: as noisy as DDPM.
        clip_sample: Keep x0_hat within [-1, 1], where ranks live, and let the noise estimate follow.
        spacing: See `spaced_timesteps`.

    Source: AirLLM Eq. 17; Song et al. 2021 (arXiv:2010.02502) Eq. 12 and 16.
    """

    num_inference_steps: int
    eta: float = 0.0
    clip_sample: bool = True
    spacing: str = "linspace"

    @classmethod
    def from_settings(cls, settings: DiffusionSettings) -> Self:
        """Return the sampler that the settings describe."""
        return cls(settings.num_inference_steps, settings.eta, settings.clip_sample, settings.timestep_spacing)

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
        """Return mean and sigma of x at `next_timestep` by Eq. 17."""
        alpha_bar, next_alpha_bar = schedule.alpha_bar(timestep), schedule.alpha_bar(next_timestep)
        if self.clip_sample:
            x0_hat = x0_hat.clamp(-1.0, 1.0)
            noise_hat = predict_noise(x_tau, x0_hat, alpha_bar)
        variance = (1.0 - next_alpha_bar) / (1.0 - alpha_bar) * (1.0 - alpha_bar / next_alpha_bar)
        sigma = self.eta * math.sqrt(variance)
        # Rounding may bring the difference just below 0 at eta = 1.
        direction = math.sqrt(max(1.0 - next_alpha_bar - sigma * sigma, 0.0)) * noise_hat
        return math.sqrt(next_alpha_bar) * x0_hat + direction, sigma
