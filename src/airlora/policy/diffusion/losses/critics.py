"""Differentiable critics of decisions: a network that is trained on rewards, or the utility model."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from airlora.policy.diffusion.losses import DiffusionBatch, LossContext
from airlora.policy.networks import two_layer_mlp
from airlora.policy.seeding import restore_torch, seeded_init, torch_generator
from airlora.policy.settings import DiffusionSettings

__all__ = ["Critic", "LearnedCritic", "UtilityCritic", "interpolate_loss_reduction"]


class Critic(ABC):
    """Value Q(x_0, c) of decisions, differentiable in x_0; larger is better.

    Args:
        settings: Settings of the critic's size and training.
        sample_size: Number of adapted modules, D.
        condition_size: Length of a condition, C.
        seed: Seed of the critic's initial weights and minibatches.
    """

    @abstractmethod
    def __init__(self, settings: DiffusionSettings, sample_size: int, condition_size: int, seed: int) -> None: ...

    @abstractmethod
    def update(self, context: LossContext) -> dict[str, float]:
        """Learn from the measured decisions; return metrics."""

    @abstractmethod
    def __call__(self, x0: Tensor, batch: DiffusionBatch) -> Tensor:
        """Return the value of every decision, float [N].

        Args:
            x0: Decisions in unit coordinates, float [N, D].
            batch: Conditions, budgets and texts of the decisions.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state of the critic."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state returned by `state_dict`."""


class LearnedCritic(Critic):
    """Minimum of two networks that predict the advantage of executed decisions.

    Source: Fujimoto et al. 2018 (arXiv:1802.09477), section 4.2, for the minimum of two networks.
    """

    def __init__(self, settings: DiffusionSettings, sample_size: int, condition_size: int, seed: int) -> None:
        self.settings = settings
        with seeded_init(seed):
            self.networks = nn.ModuleList(
                two_layer_mlp(sample_size + condition_size, settings.hidden_size, 1, out_gain=1.0) for _ in range(2)
            )
        self._optimizer = torch.optim.Adam(self.networks.parameters(), lr=settings.critic_learning_rate)
        self._generator = torch_generator(seed)

    def update(self, context: LossContext) -> dict[str, float]:
        """Take `critic_updates` regression steps; return the mean squared error as `critic_error`."""
        batch = context.batch
        self.networks.to(batch.x0.device)
        # Loading moves the optimiser's moments to the device of the weights.
        self._optimizer.load_state_dict(self._optimizer.state_dict())
        total = 0.0
        for _ in range(self.settings.critic_updates):
            rows = torch.randint(len(batch), (self.settings.batch_size,), generator=self._generator)
            drawn = batch[rows.to(batch.x0.device)]
            errors = [(value - drawn.advantage).square().mean() for value in self._values(drawn.x0, drawn.condition)]
            loss = torch.stack(errors).sum()
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            total += loss.item() / 2.0
        return {"critic_error": total / self.settings.critic_updates}

    def __call__(self, x0: Tensor, batch: DiffusionBatch) -> Tensor:
        """Return the smaller of the two predicted advantages, float [N]."""
        first, second = self._values(x0, batch.condition)
        return torch.minimum(first, second)

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the states of networks, optimiser and generator."""
        return copy.deepcopy(
            {
                "networks": self.networks.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "generator": self._generator.get_state(),
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state returned by `state_dict`."""
        self.networks.load_state_dict(state["networks"])
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        restore_torch(self._generator, state["generator"])

    def _values(self, x0: Tensor, condition: Tensor) -> list[Tensor]:
        joined = torch.cat([x0, condition], dim=-1)
        return [network(joined).squeeze(-1) for network in self.networks]


class UtilityCritic(Critic):
    """Predicted loss reduction at fractional ranks, minus the price of Eq. 9 and a penalty above the budget."""

    OVERSHOOT_PENALTY = 1.0
    """Penalty per overshoot, as a share of the budget, in units of the largest predicted loss reduction.  At this size
    no component above the budget increases the value."""

    def __init__(self, settings: DiffusionSettings, sample_size: int, condition_size: int, seed: int) -> None:  # noqa: ARG002
        self._tables: dict[str, Tensor] = {}
        self._price = 0.0

    def update(self, context: LossContext) -> dict[str, float]:
        """Copy the tables of the policy's current utility model."""
        planner, device = context.planner, context.batch.x0.device
        self._tables = {name: table.float().to(device) for name, table in planner.model.state_dict().items()}
        sizes = torch.tensor(planner.problem.params_per_rank, dtype=torch.float32, device=device)
        self._tables["params_per_rank"] = sizes
        self._price = planner.problem.cost_weight
        return {}

    def __call__(self, x0: Tensor, batch: DiffusionBatch) -> Tensor:
        """Return the predicted loss reduction minus price and penalty, nats, float [N]."""
        r_max = self._tables["curves"].shape[1] - 1
        ranks = ((x0 + 1.0) / 2.0 * (r_max + 1) - 0.5).clamp(0.0, float(r_max))
        share = (ranks * self._tables["params_per_rank"]).sum(-1) / batch.budget.clamp(min=1.0)
        reduction = interpolate_loss_reduction(self._tables, ranks, batch.text)
        largest = self._tables["curves"][:, -1].sum()
        return reduction - self._price * share - self.OVERSHOOT_PENALTY * largest * (share - 1.0).clamp(min=0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state: `update` copies the utility model before every use."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing: the critic has no state."""


def interpolate_loss_reduction(tables: Mapping[str, Tensor], ranks: Tensor, text: Tensor) -> Tensor:
    """Return `UtilityModel.loss_reduction` with tables interpolated linearly at fractional ranks, nats, float [N].

    Args:
        tables: State of the model as returned by `UtilityModel.state_dict`, all of one dtype.
        ranks: Fractional ranks, float [N, num_modules], 0 to r_max.
        text: Entries `TEXT_SLICE` of the state vectors, float [N, 2].
    """
    below = ranks.detach().floor().long().clamp(max=tables["curves"].shape[1] - 2)
    fraction = ranks - below

    def interpolate(table: Tensor) -> Tensor:
        rows = table.T
        low, high = rows.gather(0, below), rows.gather(0, below + 1)
        return low + fraction * (high - low)

    offset = torch.clamp(text, *tables["text_range"]) - tables["text_mean"]
    own = interpolate(tables["curves"]).sum(-1)
    features = torch.cat([offset, offset[:, :1] * offset, offset[:, 1:].square()], dim=1) - tables["feature_mean"]
    change = sum(features[:, axis] * interpolate(curves).sum(-1) for axis, curves in enumerate(tables["text_curves"]))
    phi = interpolate(tables["basis"])
    total: Tensor = own + change + 0.5 * ((phi @ tables["coupling"]) * phi).sum(-1)
    return total
