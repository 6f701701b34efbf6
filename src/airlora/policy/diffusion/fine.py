"""The fine policy: a diffusion model over ranks, and how it learns (IV-B)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from airlora.errors import TrainingError
from airlora.policy.diffusion.losses import LOSSES, LossContext
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.seeding import restore_torch, seeded_init, torch_generator
from airlora.policy.settings import DiffusionSettings

__all__ = ["FinePolicy", "Pairs"]

WARMUP_BATCH_SIZE = 128

WARMUP_LEARNING_RATE = 3e-3
"""At the first step of the warm-up; it falls evenly to 0 at the last."""

MAX_GRAD_NORM = 1.0

Pairs = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""(N, generator) -> what to start from: x_0, float [N, D], and its condition, float [N, C]."""


class FinePolicy:
    """A diffusion model, its optimiser and its draws; the part that "ddim" and "airllm" share.

    The paper does not say how the DDIM starts.  An untrained one would ignore its condition and give 0 or r_max to
    every module; this one first imitates the pairs it is given, at its first use.

    Args:
        sample_size: D, number of modules.
        condition_size: C, length of the condition.
        pairs: What to start from.
        settings: See `DiffusionSettings`.
        seed: Of weights, noise and minibatches.
        device: Where the network lives.
    """

    def __init__(
        self,
        sample_size: int,
        condition_size: int,
        pairs: Pairs,
        *,
        settings: DiffusionSettings,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.settings = settings
        self.device = device
        with seeded_init(seed):
            self.model = DiffusionModel(sample_size, condition_size, settings).to(device)
        self._pairs = pairs
        self._seed = seed
        self.loss = LOSSES[settings.loss](settings, sample_size, condition_size, seed)
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate)
        self._generator = torch_generator(seed)
        self._is_warm = False

    def decide(self, condition: Tensor) -> Tensor:
        """Return the mean of a few samples for one condition, float [D], within [-1, 1]; a function of its argument.

        Args:
            condition: Float [C].
        """
        self._warm_up()
        conditions = condition.to(self.device).expand(self.settings.num_decision_samples, -1)
        samples = self.model.sample(conditions, torch_generator(self._seed))
        return samples.clamp(-1.0, 1.0).mean(0).cpu()

    def explore(self, condition: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return one sample for one condition, float [D], within [-1, 1], and the way to it where the loss needs it.

        The sample has noise of `settings.exploration` added; a way, float [K + 1, D], has its own in every step.

        Args:
            condition: Float [C].
        """
        self._warm_up()
        if self.loss.needs_chains:
            chain = self.model.sample_chain(condition.to(self.device)[None], self._generator)[0].cpu()
            return chain[-1].clamp(-1.0, 1.0), chain
        sample = self.model.sample(condition.to(self.device)[None], self._generator)[0].cpu()
        noise = torch.randn(sample.shape, generator=self._generator)
        return (sample + self.settings.exploration * noise).clamp(-1.0, 1.0), None

    def update(self, context: LossContext, *, rehearse: bool) -> dict[str, float]:
        """Take `updates_per_stage` steps on minibatches drawn from executed decisions.

        Args:
            context: What was executed, and what else the loss may look at.
            rehearse: Add the denoising error on as many starting pairs to every step's loss, times
                `rehearsal_weight`, so that what was learnt in the warm-up is not forgotten for the few conditions that
                were met lately.

        Returns:
            `loss`, the mean over the steps, `advantage`, the mean over the batch in standard deviations, and what the
            loss itself reports.

        Raises:
            TrainingError: The loss is not finite.
        """
        self._warm_up()
        settings, batch = self.settings, context.batch
        metrics = self.loss.prepare(self.model, context)
        losses = []
        for _ in range(settings.updates_per_stage):
            rows = torch.randint(len(batch), (settings.batch_size,), generator=self._generator).to(self.device)
            loss = self.loss(self.model, batch[rows], self._generator)
            if rehearse and settings.rehearsal_weight > 0.0:
                loss = loss + settings.rehearsal_weight * self._starting_error(settings.batch_size)
            losses.append(self._step(self._optimizer, loss))
        return {"loss": sum(losses) / len(losses), "advantage": float(batch.advantage.mean())} | metrics

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of weights, optimiser, generator, loss, and whether the warm-up is over."""
        return copy.deepcopy(
            {
                "loss": self.loss.state_dict(),
                "model": self.model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "generator": self._generator.get_state(),
                "is_warm": self._is_warm,
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        # The optimiser would keep the very tensors that it is given.
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        restore_torch(self._generator, state["generator"])
        self._is_warm = state["is_warm"]
        self.loss.load_state_dict(state["loss"])

    def _warm_up(self) -> None:
        if self._is_warm:
            return
        optimizer = torch.optim.Adam(self.model.parameters(), lr=WARMUP_LEARNING_RATE)
        for update in range(self.settings.warmup_updates):
            optimizer.param_groups[0]["lr"] = WARMUP_LEARNING_RATE * (1.0 - update / self.settings.warmup_updates)
            self._step(optimizer, self._starting_error(WARMUP_BATCH_SIZE))
        self._is_warm = True

    def _starting_error(self, count: int) -> Tensor:
        x0, condition = self._pairs(count, self._generator)
        return self.model.squared_error(x0.to(self.device), condition.to(self.device), self._generator).mean()

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
        value = loss.item()
        if not torch.isfinite(loss):
            raise TrainingError.of("loss of the diffusion stage", value, "a finite number")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        return value
