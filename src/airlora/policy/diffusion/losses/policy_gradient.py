"""Loss "policy_gradient": PPO on the denoising steps themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from airlora.errors import PolicyError
from airlora.policy.diffusion.losses import LOSSES, DiffusionBatch, DiffusionLoss, LossContext
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.ppo_loss import clipped_objective
from airlora.policy.settings import DiffusionSettings

__all__ = ["PolicyGradientLoss"]

CLIP_COEF = 0.2


@LOSSES.register("policy_gradient")
class PolicyGradientLoss(DiffusionLoss):
    r"""Every denoising step is an action; its density is known, so the reward has a gradient (erratum 3).

    $$L = -\mathbb{E}_{k}\left[\min\left(\varrho_k A,\ \mathrm{clip}(\varrho_k, 1 - \epsilon, 1 + \epsilon) A\right)
      \right], \qquad \varrho_k = \frac{p_\psi(x_{k+1} | x_k, c)}{p_{old}(x_{k+1} | x_k, c)}$$

    Only decisions of the newest rollout count: they were drawn by the network as it was.

    Source: Ren et al. 2024 (arXiv:2409.00588) Eq. 4.3, with the context's advantage and no discount over the steps.
    """

    needs_chains = True

    def __init__(self, settings: DiffusionSettings, sample_size: int, condition_size: int, seed: int) -> None:  # noqa: ARG002
        self._chains = torch.zeros(0, 2, sample_size)
        self._condition = torch.zeros(0, condition_size)
        self._advantage = self._old_log_prob = torch.zeros(0)

    def prepare(self, model: DiffusionModel, context: LossContext) -> dict[str, float]:
        """Note how likely every step of the newest rollout was."""
        chains = context.chains
        if chains is None:
            raise PolicyError("the buffer has no denoising chains: it was filled by a policy with another loss")
        self._chains = chains
        self._condition = context.batch.condition[-len(chains) :]
        advantage = context.batch.advantage[-len(chains) :]
        # Advantages are in standard deviations: what differs by less than a thousandth of one is rounding.
        self._advantage = (advantage - advantage.mean()) / advantage.std(correction=0).clamp(min=1e-3)
        with torch.no_grad():
            self._old_log_prob = model.chain_log_prob(chains, self._condition)
        return {}

    def __call__(self, model: DiffusionModel, batch: DiffusionBatch, generator: torch.Generator) -> Tensor:
        """Return the loss on as many decisions of the newest rollout as the batch is long."""
        rows = torch.randint(len(self._chains), (len(batch),), generator=generator).to(self._chains.device)
        log_prob = model.chain_log_prob(self._chains[rows], self._condition[rows])
        # The density of a whole vector is a product over modules: its ratio would leave the clip range at once.
        ratio = ((log_prob - self._old_log_prob[rows]) / self._chains.shape[-1]).exp()
        return -clipped_objective(ratio, self._advantage[rows][:, None], clip_coef=CLIP_COEF).mean()
