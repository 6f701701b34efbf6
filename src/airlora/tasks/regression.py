r"""Regression: a number for each text or pair of texts.

$$U = \frac{1}{N} \sum_n \Big(z_n - \frac{y_n - \mu}{\sigma}\Big)^2$$

Notation: z_n output of the head; y_n number of sample n; mu, sigma mean and standard deviation of the numbers in the
training data. The model predicts mu + sigma z_n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field
from scipy import stats
from torch import Tensor
from torch.nn import functional

from airlora.errors import DataError
from airlora.tasks.base import TARGETS, Batch, EncodedData, Metric, Task
from airlora.tasks.batches import encode_texts
from airlora.tasks.settings import DataSettings
from airlora.text import ScoredDataset, Vocabulary, load_scored

__all__ = ["Regression"]


class Regression(Task):
    """Prediction of a number by the only output of the head.

    Attributes:
        mean: Mean of the numbers in the training data.
        deviation: Standard deviation of the numbers in the training data, > 0.
    """

    name: ClassVar[str] = "regression"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("pearson", higher_is_better=True, digits=4),
        Metric("spearman", higher_is_better=True, digits=4),
        Metric("loss", higher_is_better=False, digits=4),
    )

    mean: float = Field(allow_inf_nan=False)
    deviation: float = Field(gt=0, allow_inf_nan=False)

    @property
    def num_outputs(self) -> int:
        """One output."""
        return 1

    @classmethod
    def from_data(cls, settings: DataSettings) -> tuple[Self, ScoredDataset]:
        """Return the task and the training data; `data.train` or a folder `data.name` is required."""
        source = settings.required_sources(cls.name).train
        data = load_scored(source, **settings.columns, max_samples=settings.max_train_samples)
        if min(data.values) == max(data.values):
            raise DataError(f"{data.name}, column {settings.label_column}: all numbers are {data.values[0]:g}")
        with np.errstate(over="ignore"):
            mean, deviation = float(np.mean(data.values)), float(np.std(data.values))
        if not (np.isfinite(mean) and 0 < deviation < np.inf):
            largest = max(map(abs, data.values))
            raise DataError.of(f"{data.name}, column {settings.label_column}: largest number", largest, "below 1e150")
        return cls(mean=mean, deviation=deviation), data

    def read(self, settings: DataSettings, source: str | None = None) -> ScoredDataset:
        """Return held-out texts with their numbers; see `Task.read`."""
        if source is not None:
            return load_scored(source, **settings.columns)
        own = settings.required_sources(self.name).eval
        return load_scored(own, **settings.columns, max_samples=settings.max_eval_samples)

    def encode(self, data: ScoredDataset, tokenizer: Any, vocabulary: Vocabulary, max_length: int) -> EncodedData:
        """Return the token ids of the texts, with the numbers as targets."""
        return encode_texts(
            self, data.texts, data.values, data.name, tokenizer, vocabulary, max_length, pairs=data.pairs
        )

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean squared error in units of the variance of the training data.

        Args:
            logits: Float [batch, 1].
            batch: Tensors of the batch, numbers [batch] among them.
        """
        return functional.mse_loss(logits[:, 0], ((batch[TARGETS] - self.mean) / self.deviation).to(logits.dtype))

    def distillation_loss(self, logits: Tensor, teacher_logits: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002
        """Return the mean squared difference of the outputs, in units of the variance of the training data."""
        return functional.mse_loss(logits, teacher_logits)

    def score(self, outputs: Sequence[Tensor], targets: Sequence[Any]) -> dict[str, float]:
        """Return Pearson's and Spearman's correlation, and the loss. The correlation of a constant is 0."""
        found = torch.cat([own.double() for own in outputs]).numpy()
        wanted = (np.asarray(targets, dtype=float) - self.mean) / self.deviation
        pearson = spearman = 0.0
        if len(found) > 1 and np.ptp(found) > 0 and np.ptp(wanted) > 0:
            pearson, spearman = (float(own(found, wanted).statistic) for own in (stats.pearsonr, stats.spearmanr))
        return {"pearson": pearson, "spearman": spearman, "loss": float(np.mean((found - wanted) ** 2))}

    def rows(self, outputs: Sequence[Tensor], targets: Sequence[Any]) -> Iterator[dict[str, Any]]:
        """Yield number and prediction of each sample."""
        for value, output in zip(targets, outputs, strict=True):
            yield {"label": float(value), "prediction": self.mean + self.deviation * float(output[0])}
