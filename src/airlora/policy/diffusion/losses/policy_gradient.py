"""Loss "policy_gradient": PPO on the denoising steps (DPPO)."""

from __future__ import annotations

import torch
from torch import Tensor

from airlora.errors import PolicyError
from airlora.policy.diffusion.losses import LOSSES, DiffusionBatch, DiffusionLoss, LossContext
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.ppo_equations import clipped_objective
from airlora.policy.settings import DiffusionSettings

__all__ = ["PolicyGradientLoss"]

CLIP_COEF = 0.2


@LOSSES.register("policy_gradient")
class PolicyGradientLoss(DiffusionLoss):
    r"""Clipped PPO objective in which every denoising step is an action with a known density.

    $$L = -\mathbb{E}_{k}\left[\min\left(\varrho_k A,\ \mathrm{clip}(\varrho_k, 1 - \epsilon, 1 + \epsilon) A\right)
      \right], \qquad \varrho_k = \frac{p_\psi(x_{k+1} | x_k, c)}{p_{old}(x_{k+1} | x_k, c)}$$

    The known densities give the reward a gradient, unlike Eq. 19 of the paper (erratum 3).  The loss uses the decisions
    of the newest rollout only, because the current network drew them.

    Source: Ren et al. 2024 (arXiv:2409.00588) Eq. 4.3, with `contextual_advantage` and without a discount over the
    denoising steps.
    """

    needs_chains = True

    def __init__(self, settings: DiffusionSettings, sample_size: int, condition_size: int, seed: int) -> None:  # noqa: ARG002
        self._chains = torch.zeros(0, 2, sample_size)
        self._condition = torch.zeros(0, condition_size)
        self._advantage = self._old_log_prob = torch.zeros(0)

    def prepare(self, model: DiffusionModel, context: LossContext) -> dict[str, float]:
        """Store the log densities of the newest rollout's chains under the current network.

        Raises:
            PolicyError: The buffer has no denoising chains.
        """
        chains = context.chains
        if chains is None:
            raise PolicyError("no denoising chains in the buffer: fill it with a policy of the loss 'policy_gradient'")
        self._chains = chains
        self._condition = context.batch.condition[-len(chains) :]
        advantage = context.batch.advantage[-len(chains) :]
        # Advantages are in standard deviations; differences below a thousandth of one are rounding errors.
        self._advantage = (advantage - advantage.mean()) / advantage.std(correction=0).clamp(min=1e-3)
        with torch.no_grad():
            self._old_log_prob = model.chain_log_prob(chains, self._condition)
        return {}

    def __call__(self, model: DiffusionModel, batch: DiffusionBatch, generator: torch.Generator) -> Tensor:
        """Return the loss of random decisions of the newest rollout, as many as `batch` has."""
        rows = torch.randint(len(self._chains), (len(batch),), generator=generator).to(self._chains.device)
        log_prob = model.chain_log_prob(self._chains[rows], self._condition[rows])
        # The density of a vector is a product over D modules.  Without the division by D, the ratio would leave the
        # clip range after one step.
        ratio = ((log_prob - self._old_log_prob[rows]) / self._chains.shape[-1]).exp()
        return -clipped_objective(ratio, self._advantage[rows][:, None], clip_coef=CLIP_COEF).mean()
