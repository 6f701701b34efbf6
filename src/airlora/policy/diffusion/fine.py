"""The fine policy: a diffusion model, its optimiser and its draws (IV-B); shared by "ddim" and "airllm"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from airlora.config import DiffusionSettings
from airlora.errors import TrainingError
from airlora.policy.diffusion.losses import LOSSES, DiffusionBatch
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.seeding import restore_torch, seeded_init, torch_generator

__all__ = ["FinePolicy"]


class FinePolicy:
    """A diffusion model over ranks in unit coordinates, and how it learns.

    Args:
        sample_size: Number of modules.
        condition_size: Length of what it is told.
        settings: See `DiffusionSettings`.
        seed: Of weights, noise and minibatches.
        device: Where the network lives.
    """

    def __init__(
        self, sample_size: int, condition_size: int, *, settings: DiffusionSettings, seed: int, device: str = "cpu"
    ) -> None:
        self.settings = settings
        self.device = device
        self.seed = seed
        with seeded_init(seed):
            self.model = DiffusionModel(sample_size, condition_size, settings).to(device)
        self.loss = LOSSES[settings.loss](settings)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate)
        self.generator = torch_generator(seed)

    def mean_sample(self, condition: Tensor, count: int = 1) -> Tensor:
        """Return mean of samples."""
        samples = self.model.sample(condition.expand(count, -1), torch_generator(self.seed))
        return samples.clamp(-1.0, 1.0).mean(0)

    def explore(self, condition: Tensor) -> Tensor:
        """Return a draw with exploration noise, float [D], within [-1, 1]."""
        x0 = self.model.sample(condition, self.generator)[0]
        noise = torch.randn(x0.shape, generator=self.generator).to(x0.device)
        return (x0 + self.settings.exploration * noise).clamp(-1.0, 1.0)

    def update(self, batch: DiffusionBatch, draw=None) -> dict[str, float]:
        losses = []
        for _ in range(self.settings.updates_per_stage):
            rows = torch.randint(len(batch), (self.settings.batch_size,), generator=self.generator).to(self.device)
            loss = self.loss(self.model, batch[rows], self.generator)
            if draw:
                loss = loss + self.model.squared_error(*draw(self.generator, 64), self.generator).mean()
            losses.append(self._step(loss))
        return {"loss": sum(losses) / len(losses)}

    def warm_up(self, draw: Callable[[torch.Generator], tuple[Tensor, Tensor]], updates: int) -> float:
        loss = 0.0
        for _ in range(updates):
            x0, condition = draw(self.generator)
            error = self.model.squared_error(x0.to(self.device), condition.to(self.device), self.generator)
            loss = self._step(error.mean())
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        restore_torch(self.generator, state["generator"])

    def _step(self, loss: Tensor) -> float:
        if not torch.isfinite(loss):
            raise TrainingError.of("loss of the diffusion stage", loss.item(), "a finite number")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()
