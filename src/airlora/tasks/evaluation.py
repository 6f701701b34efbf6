"""Evaluation of a model on a data set."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from airlora.errors import TrainingError
from airlora.tasks.batches import EncodedData

__all__ = ["Evaluation", "Predictions", "evaluate", "predict"]


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
        return Evaluation(accuracy=num_right / len(self.labels), loss=self.loss_at(1.0), num_samples=len(self.labels))

    def loss_at(self, temperature: float) -> float:
        """Return the mean cross-entropy with the logits divided by a temperature > 0, nats."""
        return float(torch.nn.functional.cross_entropy(self.logits.double() / temperature, self.labels))


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
