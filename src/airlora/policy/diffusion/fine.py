"""The fine policy: training and sampling of a diffusion model over ranks (section IV-B)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from airlora.errors import TrainingError
from airlora.policy.diffusion.losses import LOSSES, LossContext
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.diffusion.process import swept_timesteps
from airlora.policy.seeding import restore_torch, seeded_init, torch_generator
from airlora.policy.settings import DiffusionSettings

__all__ = ["FinePolicy", "WarmupSampler"]

WARMUP_BATCH_SIZE = 128

WARMUP_LEARNING_RATE = 3e-3
"""Learning rate of the first warm-up step; it decreases linearly to 0."""

MAX_GRAD_NORM = 1.0

WarmupSampler = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""Function (N, generator) -> warm-up data: samples x_0, float [N, D], and their conditions, float [N, C]."""


class FinePolicy:
    """Diffusion model with its loss, optimiser and random generator, shared by the policies "ddim" and "airllm".

    The paper does not specify the initialisation of the diffusion model.  An untrained model ignores its condition and
    gives rank 0 or r_max to every module.  A warm-up at the first use therefore trains the model on `warmup_sampler`.

    Args:
        sample_size: Number of adapted modules, D.
        condition_size: Length of a condition, C.
        warmup_sampler: Function that draws the training data of the warm-up.
        settings: Settings of the model, the loss and the optimiser.
        seed: Seed of the initial weights, the noise and the minibatches.
        device: Torch device of the model.
    """

    def __init__(
        self,
        sample_size: int,
        condition_size: int,
        warmup_sampler: WarmupSampler,
        *,
        settings: DiffusionSettings,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.settings = settings
        self.device = device
        with seeded_init(seed):
            self.model = DiffusionModel(sample_size, condition_size, settings).to(device)
        self._warmup_sampler = warmup_sampler
        self._seed = seed
        self.loss = LOSSES[settings.loss](settings, sample_size, condition_size, seed)
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate)
        self._generator = torch_generator(seed)
        self._is_warm = False

    def decide(self, condition: Tensor) -> Tensor:
        """Return the mean of `num_decision_samples` samples, float [D], in [-1, 1].

        Every call starts from the same seed, so the result depends on the condition and the weights only.

        Args:
            condition: Condition, float [C].
        """
        self._warm_up()
        conditions = condition.to(self.device).expand(self.settings.num_decision_samples, -1)
        samples = self.model.sample(conditions, torch_generator(self._seed))
        return samples.clamp(-1.0, 1.0).mean(0).cpu()

    def explore(self, condition: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return one noisy sample, float [D], in [-1, 1], and its denoising chain, float [K + 1, D].

        The chain is None unless the loss needs chains.  Without a chain, Gaussian noise with standard deviation
        `settings.exploration` is added to the sample.  With a chain, the noise of the denoising steps is the
        exploration.

        Args:
            condition: Condition, float [C].
        """
        self._warm_up()
        if self.loss.needs_chains:
            chain = self.model.sample_chain(condition.to(self.device)[None], self._generator)[0].cpu()
            return chain[-1].clamp(-1.0, 1.0), chain
        sample = self.model.sample(condition.to(self.device)[None], self._generator)[0].cpu()
        noise = torch.randn(sample.shape, generator=self._generator)
        return (sample + self.settings.exploration * noise).clamp(-1.0, 1.0), None

    def update(self, context: LossContext, *, rehearse: bool) -> dict[str, float]:
        """Take `updates_per_stage` optimiser steps on minibatches of executed decisions.

        With `timestep_order = "sweep"` the denoising errors of update k are those of one diffusion step, see
        `swept_timesteps`.  Errors on warm-up data are always those of random diffusion steps.

        Args:
            context: Executed decisions and the other inputs of the loss.
            rehearse: Whether the denoising error on warm-up data, times `rehearsal_weight`, is added to the loss of
                every step.  It preserves the warm-up for conditions that are missing from the recent decisions.

        Returns:
            Metrics: `loss`, the mean over the steps; `advantage`, the mean over the batch in standard deviations; and
            the metrics of the loss.

        Raises:
            TrainingError: The loss is not finite.
        """
        self._warm_up()
        settings, batch = self.settings, context.batch
        metrics = self.loss.prepare(self.model, context)
        losses = []
        for timestep in self._training_timesteps():
            rows = torch.randint(len(batch), (settings.batch_size,), generator=self._generator).to(self.device)
            with self.model.at_timestep(timestep):
                loss = self.loss(self.model, batch[rows], self._generator)
            if rehearse and settings.rehearsal_weight > 0.0:
                loss = loss + settings.rehearsal_weight * self._warmup_error(settings.batch_size)
            losses.append(self._step(self._optimizer, loss))
        return {"loss": sum(losses) / len(losses), "advantage": float(batch.advantage.mean())} | metrics

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the states of model, optimiser, generator and loss, and whether the warm-up is done."""
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
        """Restore the state returned by `state_dict`."""
        self.model.load_state_dict(state["model"])
        # The optimiser keeps references to the tensors of the state that it loads.
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        restore_torch(self._generator, state["generator"])
        self._is_warm = state["is_warm"]
        self.loss.load_state_dict(state["loss"])

    def _training_timesteps(self) -> Sequence[int | None]:
        """Return the diffusion step of every update of a stage; None stands for random ones."""
        settings = self.settings
        if settings.timestep_order == "random":
            return [None] * settings.updates_per_stage
        return swept_timesteps(settings.updates_per_stage, settings.num_train_timesteps)

    def _warm_up(self) -> None:
        if self._is_warm:
            return
        optimizer = torch.optim.Adam(self.model.parameters(), lr=WARMUP_LEARNING_RATE)
        for update in range(self.settings.warmup_updates):
            optimizer.param_groups[0]["lr"] = WARMUP_LEARNING_RATE * (1.0 - update / self.settings.warmup_updates)
            self._step(optimizer, self._warmup_error(WARMUP_BATCH_SIZE))
        self._is_warm = True

    def _warmup_error(self, count: int) -> Tensor:
        x0, condition = self._warmup_sampler(count, self._generator)
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
