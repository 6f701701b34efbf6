"""Fine-tuning of adapter and head, one batch at a time, at the ranks of each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from transformers import get_scheduler

from airlora.adapters import AdaptedModel, align_to_gradient, keep_inactive, no_dropout, sample_ranks
from airlora.errors import SettingsError, TrainingError
from airlora.observation import IntArray
from airlora.packing import RATE_UPDATE_INTERVAL, SeededForm
from airlora.ranks import ModuleShape, RankPattern
from airlora.tasks import BatchOrder, EncodedData, Evaluation, evaluate, pick_autocast
from airlora.text import TextComplexity
from airlora.training.settings import Settings

__all__ = ["FineTuner"]


class FineTuner:
    """AdamW with warm-up and decay on adapter and head; the base model stays frozen.

    The first steps may train only the head (`finetune.head_steps`) and then align the components with the gradient of
    the loss (`finetune.align_steps`). Warm-up and decay begin after them.

    Args:
        adapted: Model with its adapter.
        data: Training samples.
        settings: Settings of the run. The sections `finetune` and `adapter` and the seed are used.
        device: Device of the model.
        form: Seeded form of the adapter, whose coefficients are trained in place of the components. None trains the
            components.

    Raises:
        SettingsError: `finetune.head_steps` is above 0 and the model has no head.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        data: EncodedData,
        settings: Settings,
        device: torch.device,
        form: SeededForm | None = None,
    ) -> None:
        self.adapted = adapted
        self.form = form
        self.step = 0
        self._data = data
        self._settings = settings.finetune
        self._orthogonality_weight = settings.adapter.orthogonality_weight
        self._nested_probability = settings.adapter.nested_probability
        self._seed = settings.seed
        self._device = device
        self._autocast = pick_autocast(settings.finetune.precision, device)
        self._order = BatchOrder(data.lengths, settings.finetune.batch_size, settings.seed)
        self._rounding_start = round(settings.finetune.rounding_start * settings.finetune.steps)
        if form is None:
            components = [p for update in adapted.updates.values() for p in update.parameters()]
            head = adapted.head_parameters()
        else:
            components, head = form.chunks, [*form.head.values()]
        if self._settings.head_steps and not head:
            raise SettingsError.of(
                "finetune.head_steps", self._settings.head_steps, "0: the model has no head to train"
            )
        self._parameters = components + head
        self.optimizer = torch.optim.AdamW(
            [
                {"params": components, "lr": self._settings.learning_rate},
                {"params": head, "lr": self._settings.head_learning_rate},
            ],
            weight_decay=self._settings.weight_decay,
        )
        if form is None:
            keep_inactive(self.optimizer, adapted.updates.values())
        num_scheduled = self._settings.steps - self._settings.head_steps - self._settings.align_steps
        self._scheduler = get_scheduler(
            self._settings.scheduler_name,
            self.optimizer,
            num_warmup_steps=round(self._settings.warmup_fraction * num_scheduled),
            num_training_steps=max(1, num_scheduled),
        )

    @property
    def shapes(self) -> Mapping[str, ModuleShape]:
        """Shapes of the adapted modules by name, in order."""
        return self.adapted.shapes

    @property
    def r_max(self) -> int:
        """Maximum rank of a module."""
        return self.adapted.r_max

    @property
    def head_params(self) -> int:
        """Number of parameters of the head."""
        return self.adapted.head_params

    @property
    def steps_left(self) -> int:
        """Number of remaining steps of `finetune.steps`."""
        return max(0, self._settings.steps - self.step)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the adapter at the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def complexity(self) -> TextComplexity:
        """Return the mean text features of the next batch."""
        return self._data.complexity(self._order.peek())

    def train_step(self, ranks: IntArray | RankPattern) -> float:
        """Take one optimiser step on the next batch and return its task loss before the step.

        With nested training, a fraction of the steps uses random ranks instead of `ranks`. Each of the first
        `head_steps` calls trains only the head. The call after them performs all `align_steps`, see
        `airlora.adapters.align_to_gradient`. Until then the update is zero and dropout is off.

        Args:
            ranks: Rank of each adapted module, 0 to `r_max`.

        Raises:
            TrainingError: The loss or its gradient is not finite. No parameter was changed.
        """
        tuning = self._settings
        if self.step < tuning.head_steps:
            return self._step_head()
        if self.step == tuning.head_steps and tuning.align_steps:
            return self._align()
        wanted = list(ranks.ranks) if isinstance(ranks, RankPattern) else ranks.tolist()
        self.adapted.set_ranks(self._nest(wanted))
        self.adapted.model.train()
        task_loss = self._backward(self._orthogonality_weight)
        self._clip()
        self.optimizer.step()
        self._scheduler.step()
        self.step += 1
        return task_loss

    def _step_head(self) -> float:
        self.adapted.set_ranks([0] * len(self.shapes))
        self.adapted.model.train()
        with no_dropout(self.adapted.model):
            task_loss = self._backward()
        self._clip()
        head = self.optimizer.param_groups[1]
        scheduled = head["lr"]
        head["lr"] = self._settings.head_start_learning_rate * (1.0 - self.step / self._settings.head_steps)
        # At rank 0 the components have no gradient, and the optimiser skips them.
        self.optimizer.step()
        head["lr"] = scheduled
        self.step += 1
        if self.step == self._settings.head_steps:
            # Its moments are of gradients through a model without an adapter.
            self.optimizer.state.clear()
        return task_loss

    def _align(self) -> float:
        """Align all components with the gradient over `align_steps` batches; return the mean loss."""
        self.adapted.set_ranks([self.r_max] * len(self.shapes))
        self.adapted.model.train()
        losses: list[float] = []

        def passes() -> Iterator[None]:
            for _ in range(self._settings.align_steps):
                losses.append(self._backward())
                yield

        with no_dropout(self.adapted.model):
            align_to_gradient(self.adapted.updates, passes(), norm=self._settings.align_norm, seed=self._seed)
        self.step += self._settings.align_steps
        return float(np.mean(losses))

    def _backward(self, orthogonality_weight: float = 0.0) -> float:
        """Run forward and backward pass on the next batch; return its task loss."""
        if self.form is not None:
            is_rate_due = (self.step - self._rounding_start) % RATE_UPDATE_INTERVAL == 0
            self.form.write(rounded=self._is_rounded, is_rate_due=is_rate_due, num_chunks=self._draw_chunks(self.form))
        batch = self._data.batch(self._order.take(), self._device)
        devices = [self._device] if self._device.type == "cuda" else []
        # Dropout draws from torch's global generator. Seeding it by the step gives a resumed run the same masks.
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self._seed * 1_000_003 + self.step)
            with self._autocast():
                task_loss = self._data.task.batch_loss(self.adapted.model, batch).float()
            loss = task_loss + self.adapted.orthogonality_penalty(orthogonality_weight)
            self._verify_finite("loss", loss)
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
        if self.form is not None:
            self.form.collect()
        return float(task_loss.detach())

    def _draw_chunks(self, form: SeededForm) -> int:
        """Return the number of chunks that the receiver has in the next step, so that every prefix is trained."""
        return int(np.random.default_rng([self._seed, self.step]).integers(len(form.chunks))) + 1

    @property
    def _is_rounded(self) -> bool:
        """Whether the next step trains under the rounding of the stream."""
        return self.step >= self._rounding_start

    def evaluate(self, data: EncodedData, pattern: RankPattern) -> Evaluation:
        """Return the metrics at a rank pattern, in the precision of training.

        Args:
            data: Samples of the task.
            pattern: Rank of each adapted module.
        """
        self.adapted.set_ranks(pattern)
        if self.form is not None:
            self.form.write(rounded=self._is_rounded)
        with self._autocast():
            return evaluate(self.adapted.model, data, self._device, self._settings.eval_batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Return components, head, optimiser, learning-rate schedule and position in the data."""
        return {
            "step": self.step,
            "parameters": [p.detach() for p in self._parameters],
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "order": self._order.state_dict(),
            "form": None if self.form is None else self.form.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; raises `CheckpointError` if the training data have changed."""
        self._order.load_state_dict(state["order"])
        with torch.no_grad():
            for parameter, saved in zip(self._parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])
        if self.form is not None:
            self.form.load_state_dict(state["form"])
        self.step = state["step"]

    def _clip(self) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.max_grad_norm)
        self._verify_finite("gradient norm", norm)

    def _verify_finite(self, name: str, value: torch.Tensor) -> None:
        if not torch.isfinite(value):
            raise TrainingError(
                f"{name} = {value.item()} at fine-tuning step {self.step}: allowed is a finite number; lower "
                f"finetune.learning_rate = {self._settings.learning_rate} or check the data"
            )

    def _nest(self, ranks: list[int]) -> list[int]:
        if self._nested_probability == 0.0:
            return ranks
        generator = np.random.default_rng([self._seed, self.step])
        if generator.random() >= self._nested_probability:
            return ranks
        return [int(rank) for rank in sample_ranks(self.r_max, len(self.shapes), generator)]
