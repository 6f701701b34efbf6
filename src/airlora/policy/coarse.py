"""The coarse policy: PPO over a continuous vector a_out (IV-A2, Eq. 11-12)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from airlora.errors import PolicyError, TrainingError
from airlora.observation import FloatArray
from airlora.policy.actor_critic import ActorCritic
from airlora.policy.buffer import Batch
from airlora.policy.gae import gae
from airlora.policy.gaussian import gaussian_entropy, gaussian_log_prob, gaussian_sample
from airlora.policy.ppo_loss import clipped_objective, ppo_loss
from airlora.policy.seeding import restore_torch, seeded_init, torch_generator
from airlora.policy.settings import PPOSettings

__all__ = ["CoarsePolicy"]


class CoarsePolicy:
    """Actor, critic and their optimiser; the part that plain PPO and the hierarchy share.

    Args:
        state_size: Length of s.
        action_size: Length of a_out.
        initial_mean: Every entry of the mean at the start, in unit coordinates.
        settings: See `PPOSettings`.
        seed: Of the weights, the draws and the order of minibatches.
        device: Where the networks live.
    """

    def __init__(
        self,
        state_size: int,
        action_size: int,
        *,
        initial_mean: float,
        settings: PPOSettings,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.settings = settings
        self.device = device
        self.action_size = action_size
        with seeded_init(seed):
            self.network = ActorCritic(
                state_size,
                action_size,
                settings.hidden_size,
                initial_mean=initial_mean,
                initial_std=settings.initial_std,
            ).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate, eps=1e-5)
        self.generator = torch_generator(seed)

    @torch.no_grad()
    def mean(self, vector: FloatArray) -> FloatArray:
        """Return the mean of a_out for one state, float32 [action_size]."""
        mean: FloatArray = self.network.mean(self._as_row(vector))[0].cpu().numpy()
        return mean

    @torch.no_grad()
    def sample(self, vector: FloatArray) -> tuple[FloatArray, float, float]:
        """Return a draw of a_out for one state, its log-density, and the state's value."""
        state = self._as_row(vector)
        mean = self.network.mean(state)
        a_out = gaussian_sample(mean, self.network.log_std, self.generator)
        log_prob = gaussian_log_prob(a_out, mean, self.network.log_std)
        return a_out[0].cpu().numpy(), float(log_prob), float(self.network.value(state))

    @torch.no_grad()
    def value(self, states: Tensor) -> Tensor:
        """Return V(s), float [N], for states float [N, state_size]."""
        return self.network.value(states)

    def update(self, rollout: Batch) -> dict[str, float]:
        """Take `update_epochs` passes of minibatch steps over a rollout drawn from the policy as it was until now.

        Returns:
            Means over the steps of `loss`, `objective` (J_CLIP), `value_loss`, `approx_kl` (nats), `clip_fraction`;
            and `entropy` (nats) and `explained_variance` (of the returns by the old values, at most 1).

        Raises:
            PolicyError: The rollout was drawn by another learner.
            TrainingError: The loss is not finite.
        """
        if rollout.a_outs is None or rollout.log_probs is None or rollout.values is None:
            raise PolicyError("the rollout has no a_out, log_prob and value: it was not drawn by PPO")
        settings = self.settings
        advantages = gae(
            rollout.rewards,
            rollout.values,
            self.value(rollout.next_vectors),
            rollout.terminated,
            rollout.truncated,
            gamma=settings.gamma,
            gae_lambda=settings.gae_lambda,
        )
        returns = advantages + rollout.values
        standardised = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
        steps = []
        for _ in range(settings.update_epochs):
            order = torch.randperm(len(rollout), generator=self.generator).to(self.device)
            for rows in torch.split(order, settings.minibatch_size):
                log_ratio = self._log_prob(rollout.vectors[rows], rollout.a_outs[rows]) - rollout.log_probs[rows]
                ratio = log_ratio.exp()
                objective = clipped_objective(ratio, standardised[rows], clip_coef=settings.clip_coef)
                value_error = self.network.value(rollout.vectors[rows]) - returns[rows]
                loss = ppo_loss(
                    objective,
                    value_error,
                    gaussian_entropy(self.network.log_std),
                    vf_coef=settings.vf_coef,
                    ent_coef=settings.ent_coef,
                )
                self._step(loss)
                clipped = (ratio - 1.0).abs() > settings.clip_coef
                steps.append(
                    torch.stack(
                        [
                            loss.detach(),
                            objective.detach().mean(),
                            0.5 * value_error.detach().square().mean(),
                            # Schulman's low-variance estimate of KL(old, new).
                            (ratio.detach() - 1.0 - log_ratio.detach()).mean(),
                            clipped.float().mean(),
                        ]
                    )
                )
        names = ("loss", "objective", "value_loss", "approx_kl", "clip_fraction")
        metrics = dict(zip(names, torch.stack(steps).mean(0).tolist(), strict=True))
        metrics["entropy"] = float(gaussian_entropy(self.network.log_std.detach()))
        metrics["explained_variance"] = _explained_variance(rollout.values, returns)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of weights, optimiser and generator; learning on does not change it."""
        return copy.deepcopy(
            {
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(),
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        # The optimiser would keep the very tensors that it is given.
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        restore_torch(self.generator, state["generator"])

    def _as_row(self, vector: FloatArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(vector)).to(self.device)[None]

    def _log_prob(self, states: Tensor, a_outs: Tensor) -> Tensor:
        return gaussian_log_prob(a_outs, self.network.mean(states), self.network.log_std)

    def _step(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise TrainingError.of("loss of the PPO stage", loss.item(), "a finite number (lower ppo.learning_rate)")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()


def _explained_variance(values: Tensor, returns: Tensor) -> float:
    variance = returns.var(correction=0)
    return 0.0 if variance == 0 else float(1.0 - (returns - values).var(correction=0) / variance)
