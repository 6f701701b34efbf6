"""Fine-tuning adapter and head by one batch at a time, at whatever ranks are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from transformers import get_scheduler

from airlora.adapters import AdaptedModel, align_to_gradient, keep_inactive, no_dropout, sample_ranks
from airlora.errors import SettingsError, TrainingError
from airlora.observation import IntArray
from airlora.ranks import ModuleShape, RankPattern
from airlora.tasks import BatchOrder, EncodedData, Evaluation, evaluate, pick_autocast
from airlora.text import TextComplexity
from airlora.training.settings import Settings

__all__ = ["FineTuner"]


class FineTuner:
    """AdamW with warm-up and decay on adapter and head; the base stays frozen.

    The first steps may train the head alone and turn the components to the gradient; warm-up and decay begin behind.

    Args:
        adapted: The model with its adapter.
        data: The training data.
        settings: Sections `finetune` and `adapter`, and the seed.
        device: Where the model is.

    Raises:
        SettingsError: There are steps for the head, and no head.
    """

    def __init__(self, adapted: AdaptedModel, data: EncodedData, settings: Settings, device: torch.device) -> None:
        self.adapted = adapted
        self.step = 0
        self._data = data
        self._settings = settings.finetune
        self._orthogonality_weight = settings.adapter.orthogonality_weight
        self._nested_probability = settings.adapter.nested_probability
        self._seed = settings.seed
        self._device = device
        self._autocast = pick_autocast(settings.finetune.precision, device)
        self._order = BatchOrder(data.lengths, settings.finetune.batch_size, settings.seed)
        components = [p for update in adapted.updates.values() for p in update.parameters()]
        known = {id(p) for p in components}
        head = [p for p in adapted.trainable_parameters() if id(p) not in known]
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
        keep_inactive(self.optimizer, adapted.updates.values())
        num_scheduled = self._settings.steps - self._settings.head_steps - self._settings.align_steps
        self._scheduler = get_scheduler(
            "constant_with_warmup" if self._settings.decay == "constant" else self._settings.decay,
            self.optimizer,
            num_warmup_steps=round(self._settings.warmup_fraction * num_scheduled),
            num_training_steps=max(1, num_scheduled),
        )

    @property
    def shapes(self) -> Mapping[str, ModuleShape]:
        """The adapted modules, in order."""
        return self.adapted.shapes

    @property
    def r_max(self) -> int:
        """The largest rank."""
        return self.adapted.r_max

    @property
    def head_params(self) -> int:
        """Numbers of the head."""
        return self.adapted.head_params

    @property
    def steps_left(self) -> int:
        """How many of the settings' steps are still to be taken."""
        return max(0, self._settings.steps - self.step)

    @property
    def learning_rate(self) -> float:
        """The adapter's learning rate at the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def complexity(self) -> TextComplexity:
        """Return the text state of the next batch."""
        return self._data.complexity(self._order.peek())

    def train_step(self, ranks: IntArray | RankPattern) -> float:
        """Take one optimiser step at `ranks` on the next batch; return its loss before the step, nats.

        With nested training, a share of the steps takes random cuts instead of `ranks`.  The first `head_steps` train
        the head alone, and the one behind them stands for all `align_steps`, which turn the components to the gradient
        (see `airlora.adapters.initialisation`): until they are over the update is zero, and there is no dropout.

        Raises:
            TrainingError: The loss or its gradient is not finite; no parameter was changed.
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
        """Move the head alone, at a rate that falls to 0 by the end of the phase."""
        self.adapted.set_ranks([0] * len(self.shapes))
        self.adapted.model.train()
        with no_dropout(self.adapted.model):
            task_loss = self._backward()
        self._clip()
        head = self.optimizer.param_groups[1]
        scheduled = head["lr"]
        head["lr"] = self._settings.head_start_learning_rate * (1.0 - self.step / self._settings.head_steps)
        # At rank 0 the components have no gradient, and the optimiser passes over them.
        self.optimizer.step()
        head["lr"] = scheduled
        self.step += 1
        if self.step == self._settings.head_steps:
            # Moments of gradients that came through a model without an adapter.
            self.optimizer.state.clear()
        return task_loss

    def _align(self) -> float:
        """Turn all components to the gradient over `align_steps` batches; return the mean loss."""
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
        """Take the next batch through the model and back; return its task loss, nats."""
        batch = self._data.batch(self._order.take(), self._device)
        devices = [self._device] if self._device.type == "cuda" else []
        # Dropout draws from torch's global generator: seeding it by the step makes a resumed run draw the same masks.
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self._seed * 1_000_003 + self.step)
            with self._autocast():
                task_loss = self.adapted.model(**batch).loss.float()
            loss = task_loss + self.adapted.orthogonality_penalty(orthogonality_weight)
            self._verify_finite("loss", loss)
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
        return float(task_loss.detach())

    def evaluate(self, data: EncodedData, pattern: RankPattern) -> Evaluation:
        """Return accuracy and loss at a rank pattern, in reduced precision as in training."""
        self.adapted.set_ranks(pattern)
        with self._autocast():
            return evaluate(self.adapted.model, data, self._device, self._settings.eval_batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: components, head, optimiser, schedule and place in the data."""
        return {
            "step": self.step,
            "parameters": [p.detach() for p in self._parameters],
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "order": self._order.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; raises `CheckpointError` if the data differ."""
        self._order.load_state_dict(state["order"])
        with torch.no_grad():
            for parameter, saved in zip(self._parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])
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
