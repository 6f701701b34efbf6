"""Classification: one label for each text or pair of texts."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from airlora.errors import AirloraError, DataError
from airlora.tasks.base import LOSS, TARGETS, Batch, EncodedData, Metric, Task
from airlora.tasks.batches import encode_texts
from airlora.tasks.settings import DataSettings
from airlora.text import TextDataset, Vocabulary, embedded_corpus, load_dataset, read_columns

__all__ = ["Classification"]

EMBEDDED_CORPUS_SEED = 42
"""Seed of the embedded corpus, which is one fixed data set whatever the seed of a run."""


MIN_SAMPLES_OF_UNIQUE_LABELS = 20
"""Number of samples from which on labels have to repeat."""


MIN_WORDS_OF_ANSWERS = 4
"""Number of words of a usual label from which on it may be an answer."""


class Classification(Task):
    """Classification of texts, or of pairs of texts, by a softmax over the logits.

    Attributes:
        label_names: Name of each class, in the order of the logits.
    """

    name: ClassVar[str] = "classification"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("accuracy", higher_is_better=True, style="%"), LOSS)
    has_softmax: ClassVar[bool] = True

    label_names: tuple[str, ...] = Field(min_length=2)

    @property
    def num_outputs(self) -> int:
        """Number of classes."""
        return len(self.label_names)

    @classmethod
    def from_data(cls, settings: DataSettings) -> tuple[Self, TextDataset]:
        """Return the task and the texts of the training data, or of the embedded corpus if none are set."""
        sources = settings.sources()
        if sources is None:
            data = _embedded(settings)[0]
        else:
            try:
                data = sources.load_train(**settings.columns, max_samples=settings.max_train_samples)
            except DataError as error:
                raise _with_other_task(error, sources.train) from error
            _verify_repeated(data, settings.label_column)
        return cls(label_names=data.label_names), data

    def read(self, settings: DataSettings, source: str | None = None) -> TextDataset:
        """Return held-out texts with labels of the training data; see `Task.read`."""
        options: dict[str, Any] = {**settings.columns, "label_names": self.label_names, "require_classes": 1}
        if source is not None:
            return load_dataset(source, **options)
        sources = settings.sources()
        if sources is None:
            return _embedded(settings)[1]
        return sources.load_eval(max_samples=settings.max_eval_samples, **options)

    def encode(self, data: TextDataset, tokenizer: Any, vocabulary: Vocabulary, max_length: int) -> EncodedData:
        """Return the token ids of the texts, with class indices as targets."""
        return encode_texts(
            self, data.texts, data.labels, data.name, tokenizer, vocabulary, max_length, pairs=data.pairs
        )

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy, nats per sample.

        Args:
            logits: Float [batch, num_outputs].
            batch: Tensors of the batch, class indices int64 [batch] among them.
        """
        return functional.cross_entropy(logits, batch[TARGETS])

    def distillation_loss(self, logits: Tensor, teacher_logits: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002
        """Return the mean KL divergence from the teacher's probabilities to the model's, nats per sample."""
        learned, taught = (functional.log_softmax(values, dim=-1) for values in (logits, teacher_logits))
        return functional.kl_div(learned, taught, log_target=True, reduction="batchmean")

    def score(self, outputs: Sequence[Tensor], targets: Sequence[Any]) -> dict[str, float]:
        """Return the share of samples whose largest logit is that of the label, and the mean cross-entropy."""
        logits, labels = torch.stack(tuple(outputs)).double(), torch.as_tensor(np.asarray(targets))
        num_right = int((logits.argmax(dim=-1) == labels).sum())
        return {"accuracy": num_right / len(labels), "loss": float(functional.cross_entropy(logits, labels))}

    def rows(self, outputs: Sequence[Tensor], targets: Sequence[Any]) -> Iterator[dict[str, Any]]:
        """Yield label index and logits of each sample."""
        for label, logits in zip(targets, outputs, strict=True):
            yield {"label": int(label), "logits": logits.tolist()}

    def logit_tensors(self, head: Mapping[str, npt.NDArray[Any]]) -> list[str]:
        """Return the names of the only matrix with a row per class, and of its bias.

        The result is empty if no matrix or several matrices have a row per class.

        Examples:
            >>> head = {"dense.weight": np.ones((8, 8)), "out.weight": np.ones((2, 8)), "out.bias": np.ones(2)}
            >>> Classification(label_names=("negative", "positive")).logit_tensors(head)
            ['out.weight', 'out.bias']
        """
        matrices = [name for name, value in head.items() if value.ndim > 1 and value.shape[0] == self.num_outputs]
        if len(matrices) != 1:
            return []
        bias = f"{matrices[0].rpartition('.')[0]}.bias"
        return matrices + [name for name in head if name == bias]


def _with_other_task(error: DataError, source: str) -> DataError:
    """Return the error, with the name of the task that the columns of the source suggest."""
    try:
        found = set(read_columns(source))
    except AirloraError:
        return error
    if "messages" in found or found >= {"prompt", "completion"}:
        return DataError(f"{error}; for a language model pass --task causal-lm")
    return error


def _verify_repeated(data: TextDataset, column: str) -> None:
    """Raise `DataError` if most labels occur once and are texts: they are answers, and no classes."""
    present = {data.label_names[label] for label in data.labels}
    are_texts = statistics.median(len(name.split()) for name in present) >= MIN_WORDS_OF_ANSWERS
    if are_texts and len(data) >= MIN_SAMPLES_OF_UNIQUE_LABELS and 2 * len(present) > len(data):
        raise DataError(
            f"{data.name}, column {column}: {len(present)} classes in {len(data)} samples: allowed is one class for "
            "two samples or more; for free text as the answer pass --task causal-lm"
        )


def _embedded(settings: DataSettings) -> tuple[TextDataset, TextDataset]:
    return embedded_corpus(seed=EMBEDDED_CORPUS_SEED, num_train=settings.num_train, num_dev=settings.num_eval)
