"""Fine-tuning adapter and head by one batch at a time, at whatever ranks are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import get_scheduler

from airlora.adapters import AdaptedModel, AlignedStart, keep_inactive, sample_ranks
from airlora.config import Settings
from airlora.errors import TrainingError
from airlora.observation import IntArray
from airlora.ranks import ModuleShape, RankPattern
from airlora.text import TextComplexity
from airlora.training.batches import BatchOrder, EncodedData
from airlora.training.precision import pick_autocast

__all__ = ["Evaluation", "FineTuner", "Predictions", "evaluate", "predict"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a model is on a data set.

    Args:
        accuracy: Share of samples whose largest logit is the label's.
        loss: Mean cross-entropy, nats per sample.
        num_samples: How many samples.
    """

    accuracy: float
    loss: float
    num_samples: int


@dataclass(frozen=True, slots=True)
class Predictions:
    """Logits in the order of the data.

    Args:
        logits: float32 [num_samples, num_labels].
        labels: int64 [num_samples].
    """

    logits: torch.Tensor
    labels: torch.Tensor

    @property
    def evaluation(self) -> Evaluation:
        """Accuracy and mean cross-entropy."""
        num_right = int((self.logits.argmax(dim=-1) == self.labels).sum())
        loss = float(torch.nn.functional.cross_entropy(self.logits.double(), self.labels))
        return Evaluation(accuracy=num_right / len(self.labels), loss=loss, num_samples=len(self.labels))


@torch.no_grad()
def predict(model: torch.nn.Module, data: EncodedData, device: torch.device, batch_size: int = 128) -> Predictions:
    """Return the logits of every sample, in evaluation mode and the precision of the surrounding context.

    Raises:
        TrainingError: A logit is not finite.
    """
    model.eval()
    order: list[int] = []
    parts = []
    for indices in data.in_order(batch_size):
        batch = data.batch(indices, device)
        del batch["labels"]
        parts.append(model(**batch).logits.float().cpu())
        order.extend(indices.tolist())
    shuffled = torch.cat(parts)
    if not torch.isfinite(shuffled).all():
        raise TrainingError(
            "a logit is not finite: allowed are finite numbers; the adapter or the base model is broken"
        )
    logits = torch.empty_like(shuffled)
    logits[torch.tensor(order)] = shuffled
    return Predictions(logits=logits, labels=torch.from_numpy(data.labels))


def evaluate(model: torch.nn.Module, data: EncodedData, device: torch.device, batch_size: int = 128) -> Evaluation:
    """Return accuracy and loss of a model on all of `data`; see `predict`."""
    return predict(model, data, device, batch_size).evaluation


class FineTuner:
    """AdamW with warm-up and decay on adapter and head; the base stays frozen.

    The first steps may be those of an `AlignedStart`; warm-up and decay begin behind them.

    Args:
        adapted: The model with its adapter.
        data: The training data.
        settings: Sections `finetune` and `adapter`, and the seed.
        device: Where the model is.
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
        self._start = AlignedStart(
            list(adapted.updates.values()),
            head_steps=self._settings.head_steps,
            align_steps=self._settings.align_steps,
            norm=settings.adapter.start_norm,
        )
        components = [p for update in adapted.updates.values() for p in update.parameters()]
        known = {id(p) for p in components}
        head = [p for p in adapted.trainable_parameters() if id(p) not in known]
        self._parameters = components + head
        self.optimizer = torch.optim.AdamW(
            [
                {"params": components, "lr": self._settings.learning_rate},
                {"params": head, "lr": self._settings.head_learning_rate},
            ],
            weight_decay=self._settings.weight_decay,
        )
        keep_inactive(self.optimizer, adapted.updates.values())
        num_scheduled = self._settings.steps - self._start.num_steps
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

        With nested training, a share of the steps takes random cuts instead of `ranks`.  While the start lasts, all
        components are there, and the update is zero.

        Raises:
            TrainingError: The loss or its gradient is not finite; no parameter was changed.
        """
        wanted = list(ranks.ranks) if isinstance(ranks, RankPattern) else ranks.tolist()
        phase = self._start.phase(self.step)
        self._start.prepare(self.step)
        self.adapted.set_ranks(self._nest(wanted) if phase is None else [self.r_max] * len(self.shapes))
        model = self.adapted.model
        model.train()
        batch = self._data.batch(self._order.take(), self._device)
        devices = [self._device] if self._device.type == "cuda" else []
        # Dropout draws from torch's global generator: seeding it by the step makes a resumed run draw the same masks.
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self._seed * 1_000_003 + self.step)
            with self._autocast():
                task_loss = model(**batch).loss.float()
            weight = self._orthogonality_weight if phase is None else 0.0
            loss = task_loss + self.adapted.orthogonality_penalty(weight)
            self._verify_finite("loss", loss)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        if phase == "left" or phase == "right":
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            self._verify_finite("gradient norm", torch.nn.utils.get_total_norm(gradients))
            self._start.gather(self.step)
        elif phase == "head":
            self._step_head()
        else:
            self._clip()
            self.optimizer.step()
            self._scheduler.step()
        self.step += 1
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
            "start": self._start.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; raises `CheckpointError` if the data differ."""
        self._order.load_state_dict(state["order"])
        with torch.no_grad():
            for parameter, saved in zip(self._parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])
        if "start" in state:  # checkpoints of the first versions have none
            self._start.load_state_dict(state["start"])
        self.step = state["step"]

    def _clip(self) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.max_grad_norm)
        self._verify_finite("gradient norm", norm)

    def _step_head(self) -> None:
        """Move the head alone, at its rate, which falls to 0 by the end of the phase."""
        components, head = self.optimizer.param_groups
        for parameter in components["params"]:
            parameter.grad = None  # the optimiser passes over what has none
        self._clip()
        scheduled = head["lr"]
        head["lr"] = self._settings.head_learning_rate * (1.0 - self.step / self._settings.head_steps)
        self.optimizer.step()
        head["lr"] = scheduled

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
