r"""The forward process and its algebra (Eq. 13, 14 and 16), one function per equation.

In all functions, samples and noise are float [N, D].  `alpha_bar` is \bar\alpha of the step: a number, or a float
tensor [N, 1] with one step per sample.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from airlora.policy.diffusion.schedules import SCHEDULES

__all__ = [
    "NoiseSchedule",
    "add_noise",
    "forward_step",
    "posterior_mean",
    "predict_noise",
    "predict_x0",
    "sqrt",
    "swept_timesteps",
    "velocity",
]


class NoiseSchedule:
    r"""Table of beta, alpha = 1 - beta and \bar\alpha = prod alpha per diffusion step; step 0 is the least noisy.

    Args:
        betas: Noise variance beta of each step, float64 [num_train_timesteps], above 0 and below 1.
    """

    def __init__(self, betas: Tensor) -> None:
        self.betas = betas
        self.alphas = 1.0 - betas
        self.alphas_cumprod = torch.cumprod(self.alphas, dim=0)
        self._alpha_bars: list[float] = self.alphas_cumprod.tolist()

    @classmethod
    def make(cls, beta_schedule: str, num_train_timesteps: int, beta_start: float, beta_end: float) -> NoiseSchedule:
        """Return the table of the schedule that is registered under a name.

        Args:
            beta_schedule: Name of the schedule, a key of `SCHEDULES`.
            num_train_timesteps: Number of diffusion steps, T.
            beta_start: beta of step 0, for schedules that use it.
            beta_end: beta of step T - 1, for schedules that use it.

        Raises:
            PolicyError: The name is not registered.
        """
        return cls(SCHEDULES[beta_schedule](num_train_timesteps, beta_start, beta_end))

    @property
    def num_train_timesteps(self) -> int:
        """Number of diffusion steps, T."""
        return len(self.betas)

    def alpha_bar(self, timestep: int) -> float:
        r"""Return \bar\alpha of one step; step -1 is the clean sample and returns 1."""
        return 1.0 if timestep < 0 else self._alpha_bars[timestep]

    def alpha_bars(self, timesteps: Tensor) -> Tensor:
        r"""Return \bar\alpha of several steps, float32 [N, 1], for timesteps int64 [N]."""
        return self.alphas_cumprod.to(timesteps.device, torch.float32)[timesteps][:, None]


def swept_timesteps(num_updates: int, num_train_timesteps: int) -> list[int]:
    r"""Return the diffusion step of each gradient step of a learning stage that sweeps them in order.

    $$\tau_k = \mathrm{round}\left(k\, \frac{T - 1}{n - 1}\right) \text{ for } n < T, \qquad
      \tau_k = k \bmod T \text{ otherwise}$$

    With n = T every step is visited once, as in lines 17 to 21 of Algorithm 1.  Step 0 of the code is the paper's
    tau = 1: the paper's tau = 0 is the clean sample, which has no noise to predict.  A single update takes the middle.

    Args:
        num_updates: Number of gradient steps of the stage, n.
        num_train_timesteps: Number of diffusion steps, T.

    Source: AirLLM Algorithm 1, lines 17 to 21.

    Examples:
        >>> swept_timesteps(4, 4), swept_timesteps(3, 9), swept_timesteps(5, 3), swept_timesteps(1, 9)
        ([0, 1, 2, 3], [0, 4, 8], [0, 1, 2, 0, 1], [4])
    """
    last = num_train_timesteps - 1
    if num_updates >= num_train_timesteps:
        return [update % num_train_timesteps for update in range(num_updates)]
    if num_updates == 1:
        return [last // 2]
    return [round(update * last / (num_updates - 1)) for update in range(num_updates)]


def sqrt(value: Tensor | float) -> Tensor | float:
    """Return the square root of a number, or of every entry of a tensor."""
    return value.sqrt() if isinstance(value, Tensor) else math.sqrt(value)


def forward_step(x_previous: Tensor, noise: Tensor, beta: float) -> Tensor:
    r"""Return x_tau, one step noisier than x_{tau-1} (Eq. 13).

    $$x_\tau = \sqrt{1 - \beta_\tau}\, x_{\tau-1} + \sqrt{\beta_\tau}\, \epsilon$$

    Notation: epsilon noise, a standard normal draw.

    Source: AirLLM Eq. 13; Ho et al. 2020 (arXiv:2006.11239) Eq. 2.
    """
    return math.sqrt(1.0 - beta) * x_previous + math.sqrt(beta) * noise


def add_noise(x0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:
    r"""Return x_tau from x_0 in one step (Eq. 14).

    $$x_\tau = \sqrt{\bar\alpha_\tau}\, x_0 + \sqrt{1 - \bar\alpha_\tau}\, \epsilon$$

    Notation: epsilon noise, a standard normal draw.

    Source: AirLLM Eq. 14; Ho et al. 2020 (arXiv:2006.11239) Eq. 4.
    """
    return sqrt(alpha_bar) * x0 + sqrt(1.0 - alpha_bar) * noise


def predict_x0(x_tau: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:
    r"""Return the estimate of x_0 that follows from an estimate of the noise (Eq. 14 solved for x_0).

    $$\hat x_0 = \frac{x_\tau - \sqrt{1 - \bar\alpha_\tau}\, \hat\epsilon}{\sqrt{\bar\alpha_\tau}}$$

    The paper uses the posterior mean of Eq. 16 as this estimate.  DDIM does not converge to the data with it (erratum
    2).

    Source: Song et al. 2021 (arXiv:2010.02502) Eq. 9.
    """
    return (x_tau - sqrt(1.0 - alpha_bar) * noise) / sqrt(alpha_bar)


def predict_noise(x_tau: Tensor, x0: Tensor, alpha_bar: Tensor | float) -> Tensor:
    r"""Return the estimate of the noise that follows from an estimate of x_0 (Eq. 14 solved for epsilon)."""
    return (x_tau - sqrt(alpha_bar) * x0) / sqrt(1.0 - alpha_bar)


def posterior_mean(x_tau: Tensor, noise: Tensor, alpha: float, alpha_bar: float) -> Tensor:
    r"""Return the mean of the DDPM posterior of x_{tau-1} given x_tau (Eq. 16).

    $$\mu_\psi = \frac{1}{\sqrt{\alpha_\tau}}
      \left(x_\tau - \frac{1 - \alpha_\tau}{\sqrt{1 - \bar\alpha_\tau}}\, \hat\epsilon\right)$$

    Notation: alpha_tau alpha; \bar\alpha_tau alpha_bar; \hat\epsilon noise.

    Source: AirLLM Eq. 16; Ho et al. 2020 (arXiv:2006.11239) Eq. 11.
    """
    return (x_tau - (1.0 - alpha) / math.sqrt(1.0 - alpha_bar) * noise) / math.sqrt(alpha)


def velocity(x0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:
    r"""Return the velocity between signal and noise: $v = \sqrt{\bar\alpha}\, \epsilon - \sqrt{1 - \bar\alpha}\, x_0$.

    The paper uses this standard definition (erratum 6).

    Source: Salimans and Ho 2022 (arXiv:2202.00512), section 4.
    """
    return sqrt(alpha_bar) * noise - sqrt(1.0 - alpha_bar) * x0
