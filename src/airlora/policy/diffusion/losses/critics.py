"""What values a decision, with a gradient: a network trained on rewards, or the utility model."""

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

__all__ = ["Critic", "LearnedCritic", "UtilityCritic", "utility_drop"]


class Critic(ABC):
    """Q(x_0, c), float [N]; more is better.

    Args:
        settings: See `DiffusionSettings`.
        sample_size: D.
        condition_size: C.
        seed: Of whatever it draws or initialises.
    """

    @abstractmethod
    def __init__(self, settings: DiffusionSettings, sample_size: int, condition_size: int, seed: int) -> None: ...

    @abstractmethod
    def update(self, context: LossContext) -> dict[str, float]:
        """Learn from what was measured; return what there is to report."""

    @abstractmethod
    def __call__(self, x0: Tensor, batch: DiffusionBatch) -> Tensor:
        """Return the value of every decision, float [N], for float [N, D] in unit coordinates."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what it has learnt."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""


class LearnedCritic(Critic):
    """Two networks that predict the advantage of executed decisions; the smaller prediction counts.

    Source: Fujimoto et al. 2018 (arXiv:1802.09477) for the two networks.
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
        """Take `critic_updates` regression steps."""
        batch = context.batch
        self.networks.to(batch.x0.device)
        # Its moments follow the weights to where those are.
        self._optimizer.load_state_dict(self._optimizer.state_dict())
        total = 0.0
        for _ in range(self.settings.critic_updates):
            rows = torch.randint(len(batch), (self.settings.batch_size,), generator=self._generator)
            part = batch[rows.to(batch.x0.device)]
            errors = [(value - part.advantage).square().mean() for value in self._values(part.x0, part.condition)]
            loss = torch.stack(errors).sum()
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            total += loss.item() / 2.0
        return {"critic_error": total / self.settings.critic_updates}

    def __call__(self, x0: Tensor, batch: DiffusionBatch) -> Tensor:
        """Return the smaller of both predictions."""
        first, second = self._values(x0, batch.condition)
        return torch.minimum(first, second)

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimiser and generator."""
        return copy.deepcopy(
            {
                "networks": self.networks.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "generator": self._generator.get_state(),
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.networks.load_state_dict(state["networks"])
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        restore_torch(self._generator, state["generator"])

    def _values(self, x0: Tensor, condition: Tensor) -> list[Tensor]:
        joined = torch.cat([x0, condition], dim=-1)
        return [network(joined).squeeze(-1) for network in self.networks]


class UtilityCritic(Critic):
    """The utility model between whole ranks, less the price, less a fine on what is beyond the budget."""

    FINE = 1.0
    """Times the overshoot as a share of the budget, in units of the largest drop: cutting costs more than it gains."""

    def __init__(self, settings: DiffusionSettings, sample_size: int, condition_size: int, seed: int) -> None:  # noqa: ARG002
        self._tables: dict[str, Tensor] = {}
        self._price = 0.0

    def update(self, context: LossContext) -> dict[str, float]:
        """Take the policy's utility model as it is now."""
        advisor, device = context.advisor, context.batch.x0.device
        self._tables = {name: table.float().to(device) for name, table in advisor.model.state_dict().items()}
        sizes = torch.tensor(advisor.problem.params_per_rank, dtype=torch.float32, device=device)
        self._tables["params_per_rank"] = sizes
        self._price = advisor.problem.cost_weight
        return {}

    def __call__(self, x0: Tensor, batch: DiffusionBatch) -> Tensor:
        """Return the drop of the loss less price and fine, nats."""
        r_max = self._tables["curves"].shape[1] - 1
        ranks = ((x0 + 1.0) / 2.0 * (r_max + 1) - 0.5).clamp(0.0, float(r_max))
        share = (ranks * self._tables["params_per_rank"]).sum(-1) / batch.budget.clamp(min=1.0)
        worth = utility_drop(self._tables, ranks, batch.text)
        height = self._tables["curves"][:, -1].sum()
        return worth - self._price * share - self.FINE * height * (share - 1.0).clamp(min=0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: `update` goes before every use."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to continue from."""


def utility_drop(tables: Mapping[str, Tensor], ranks: Tensor, text: Tensor) -> Tensor:
    """Return `UtilityModel.drop` at ranks between whole ones, linear in between; float [N].

    Args:
        tables: `UtilityModel.state_dict`, of one dtype.
        ranks: Float [N, num_modules], 0 to r_max.
        text: Float [N, 2].
    """
    below = ranks.detach().floor().long().clamp(max=tables["curves"].shape[1] - 2)
    part = ranks - below

    def between(table: Tensor) -> Tensor:
        """Return a table [num_modules, r_max + 1] at the ranks, [N, num_modules]."""
        rows = table.T
        low, high = rows.gather(0, below), rows.gather(0, below + 1)
        return low + part * (high - low)

    offset = torch.clamp(text, *tables["text_range"]) - tables["text_mean"]
    own = between(tables["curves"]).sum(-1)
    features = torch.cat([offset, offset[:, :1] * offset, offset[:, 1:].square()], dim=1) - tables["feature_mean"]
    change = sum(features[:, axis] * between(curves).sum(-1) for axis, curves in enumerate(tables["text_curves"]))
    phi = between(tables["basis"])
    coupled: Tensor = own + change + 0.5 * ((phi @ tables["coupling"]) * phi).sum(-1)
    return coupled
