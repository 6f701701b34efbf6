"""Evaluation of a model on a data set, by the metrics of its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from airlora.errors import TrainingError
from airlora.tasks.base import EncodedData, Metric, Task

__all__ = ["Evaluation", "Predictions", "evaluate", "predict"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of a model on a data set.

    Args:
        values: Value of each metric by name.
        num_samples: Number of samples.
        primary: Metric by which models of the task are compared.
    """

    values: Mapping[str, float]
    num_samples: int
    primary: Metric

    @property
    def score(self) -> float:
        """Value of the primary metric."""
        return self.values[self.primary.name]

    @property
    def loss(self) -> float:
        """Mean loss per target."""
        return self.values["loss"]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Outputs of a model on a data set, in the order of the data.

    Args:
        task: Task of the samples.
        outputs: Output of each sample, see `Task.outputs`. Those of classification are logits, float32 [num_labels].
        targets: Target of each sample.
    """

    task: Task
    outputs: Sequence[Tensor]
    targets: Sequence[Any]

    @property
    def logits(self) -> Tensor:
        """Outputs as one tensor [num_samples, ...], for tasks whose outputs have one shape."""
        return torch.stack(tuple(self.outputs))

    @property
    def evaluation(self) -> Evaluation:
        """Metrics of the predictions."""
        return Evaluation(self.task.score(self.outputs, self.targets), len(self.outputs), self.task.metrics[0])

    def loss_at(self, temperature: float) -> float:
        """Return the mean loss with the outputs divided by a temperature > 0; requires outputs that are logits."""
        return self.task.score([row.double() / temperature for row in self.outputs], self.targets)["loss"]

    def rows(self) -> list[dict[str, Any]]:
        """Return target and prediction of each sample as plain values for JSON."""
        return list(self.task.rows(self.outputs, self.targets))


@torch.no_grad()
def predict(model: torch.nn.Module, data: EncodedData, device: torch.device, batch_size: int = 128) -> Predictions:
    """Return the outputs for every sample, in evaluation mode and the precision of the surrounding context.

    Args:
        model: Model with the head of the data's task.
        data: Samples.
        device: Device of the model.
        batch_size: Number of samples per forward pass.

    Raises:
        TrainingError: A logit is not finite.
    """
    model.eval()
    outputs: dict[int, Tensor] = {}
    for indices in data.in_order(batch_size):
        batch = data.batch(indices, device)
        found = data.task.batch_outputs(model, batch)
        if not all(bool(torch.isfinite(own).all()) for own in found):
            raise TrainingError(
                "a logit is not finite: allowed are finite numbers; the adapter or the base model is broken"
            )
        outputs.update(zip(indices.tolist(), found, strict=True))
    return Predictions(data.task, [outputs[index] for index in range(len(data))], data.targets)


def evaluate(model: torch.nn.Module, data: EncodedData, device: torch.device, batch_size: int = 128) -> Evaluation:
    """Return the metrics of a model on all samples; arguments and errors are those of `predict`."""
    return predict(model, data, device, batch_size).evaluation
