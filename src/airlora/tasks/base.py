"""Interface of a task: its data, head, loss and metrics, which training, packing and evaluation use.

A new task is a module of this package with a subclass of `Task`. It needs no entry elsewhere: `find_task` imports the
modules of this package and finds the subclass by its name, the value of the setting `task`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
import transformers
from pydantic import ConfigDict
from torch import Tensor, nn

from airlora.errors import SettingsError
from airlora.observation import FloatArray, IntArray
from airlora.settings.fields import Section
from airlora.tasks.settings import DataSettings
from airlora.text import TextComplexity, Vocabulary

__all__ = [
    "IGNORED",
    "LOSS",
    "TARGETS",
    "Batch",
    "Dataset",
    "EncodedData",
    "Metric",
    "Task",
    "find_metrics",
    "find_task",
    "model_inputs",
]

Batch = Mapping[str, Tensor]
"""Tensors of a batch by name: the inputs of a model, and the targets under `TARGETS`."""

TARGETS = "labels"
"""Name of the column with the targets."""

IGNORED = -100
"""Target of a token that no loss and no metric counts, as in `transformers`."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that an evaluation gives.

    Args:
        name: Key of the metric in JSON output, and its name in tables and figures.
        higher_is_better: Whether a larger value means a better model.
        style: Format code of the value. "%" shows a share as a percentage, "f" shows the plain number.
        digits: Number of decimals in tables.
        unit: Unit behind the number, such as "nats".

    Examples:
        >>> Metric("accuracy", higher_is_better=True, style="%").text(0.9123)
        '91.23%'
    """

    name: str
    higher_is_better: bool
    style: str = "f"
    digits: int = 2
    unit: str = ""

    def text(self, value: float, *, short: bool = False) -> str:
        """Return the value with its unit; with `short`, in one decimal less."""
        return f"{value:.{self.digits - short}{self.style}} {self.unit}".rstrip()

    def number(self, value: float) -> str:
        """Return the value without its unit, for a column with the title `heading`."""
        return self.text(value).removesuffix("%").removesuffix(self.unit).rstrip()

    @property
    def heading(self) -> str:
        """Name and unit, such as "accuracy, %"."""
        return ", ".join(filter(None, (self.name, "%" if self.style == "%" else self.unit)))

    def oriented(self, value: float) -> float:
        """Return the value, negated if lower is better."""
        return value if self.higher_is_better else -value

    def difference(self, value: float) -> str:
        """Return a difference of two values, that of shares in percentage points.

        Examples:
            >>> Metric("accuracy", higher_is_better=True, style="%").difference(0.021)
            '2.1 points'
        """
        return f"{100 * value:.1f} points" if self.style == "%" else self.text(value)

    def best(self, values: Iterable[float]) -> float:
        """Return the best of some values."""
        return max(values) if self.higher_is_better else min(values)


LOSS = Metric("loss", higher_is_better=False, digits=4, unit="nats")
"""Mean loss per target, for losses that are negative log-likelihoods."""


class Dataset(Protocol):
    """Samples of a task as they were read; only the task looks into them."""

    @property
    def name(self) -> str:
        """Name of the data set, for messages and reports."""
        ...

    def __len__(self) -> int: ...

    def subset(self, indices: Sequence[int], /) -> Self:
        """Return the samples at `indices`, in that order."""
        ...


class Task(Section, ABC):
    """Task of fine-tuning: how its data are read, its model is loaded, trained and scored.

    A task is data: its fields come from the training data, such as the names of classes. They are stored
    with every run and stream, from which `validate` makes the same task again. Its methods are pure.

    Class attributes:
        name: Name of the task, the value of the setting `task`.
        metrics: Metrics of an evaluation, "loss" among them. The first is the primary one, which early stopping,
            tables and figures use.
        auto_model: Class of `transformers` that loads a model with the head of the task.
        head_modules: Ends of the names of modules that are trained in full, as in `find_head`. None stands for the
            names that `transformers` gives to classification heads, an empty tuple for a task without a head.
        has_softmax: Whether the predictions depend on differences of logits alone.
    """

    model_config = ConfigDict(extra="ignore")

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    auto_model: ClassVar[Any] = transformers.AutoModelForSequenceClassification
    head_modules: ClassVar[tuple[str, ...] | None] = None
    has_softmax: ClassVar[bool] = False

    @property
    @abstractmethod
    def num_outputs(self) -> int | None:
        """Number of outputs of the head, `num_labels` of the model's configuration. None leaves the model as it is."""

    @classmethod
    @abstractmethod
    def from_data(cls, settings: DataSettings) -> tuple[Self, Dataset]:
        """Return the task and its training data.

        Raises:
            DataError: The training data are missing, empty or malformed, or do not fit the task.
        """

    @abstractmethod
    def read(self, settings: DataSettings, source: str | None = None) -> Dataset:
        """Return held-out samples.

        Args:
            settings: Settings of the run's data. Its column names apply to `source` too.
            source: File or data set to read. None stands for the run's evaluation data.

        Raises:
            DataError: The data are missing, empty or malformed, or have targets that the training data lack.
        """

    @abstractmethod
    def encode(self, data: Any, tokenizer: Any, vocabulary: Vocabulary, max_length: int) -> EncodedData:
        """Return samples as token ids, with targets and text features.

        Args:
            data: Samples of `from_data` or `read`.
            tokenizer: Tokenizer of the model.
            vocabulary: Known words, for the out-of-vocabulary rate.
            max_length: Number of tokens to which a sample is truncated.

        Raises:
            DataError: A sample has no token.
        """

    @abstractmethod
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss over the targets of a batch, a scalar."""

    @abstractmethod
    def distillation_loss(self, logits: Tensor, teacher_logits: Tensor, batch: Batch) -> Tensor:
        """Return the divergence of a model's logits from a teacher's, averaged like `loss`, a scalar."""

    @abstractmethod
    def score(self, outputs: Sequence[Tensor], targets: Sequence[Any]) -> dict[str, float]:
        """Return the value of every metric by name, in the order of `metrics`.

        Args:
            outputs: Result of `outputs` for each sample.
            targets: Target of each sample.
        """

    @abstractmethod
    def rows(self, outputs: Sequence[Tensor], targets: Sequence[Any]) -> Iterator[dict[str, Any]]:
        """Yield target and prediction of each sample as plain values for JSON."""

    def outputs(self, logits: Tensor, batch: Batch) -> Sequence[Tensor]:  # noqa: ARG002 (other tasks need the batch)
        """Return what `score` needs of the logits of a batch, one tensor on the CPU per sample."""
        return tuple(logits.cpu())

    def num_targets(self, batch: Batch) -> int:
        """Return the number of targets in a batch, over which `loss` is the mean."""
        return len(batch[TARGETS])

    def verify_model(self, model: nn.Module) -> None:
        """Raise `ModelError` if a base model is not of the kind that the task needs.

        Args:
            model: Base model, without an adapter, on the CPU in evaluation mode.
        """

    def quality(self, values: Mapping[str, float]) -> float:
        """Return the quality from 0 to 1 that releases state and devices compare.

        It is the first metric of which a higher value is better, such as the accuracy. A task without such a metric has
        the quality 1 / (1 + loss).

        Args:
            values: Value of each metric by name.
        """
        name = next((metric.name for metric in self.metrics if metric.higher_is_better), None)
        found = 1.0 / (1.0 + max(0.0, values["loss"])) if name is None else values[name]
        return min(1.0, max(0.0, found))

    def logit_tensors(self, head: Mapping[str, npt.NDArray[Any]]) -> list[str]:  # noqa: ARG002 (for other tasks)
        """Return the names of the head's tensors that give the logits.

        Dividing these tensors by a temperature divides the logits by it. The result is empty if that is not so, or if
        the metrics of the task do not depend on a temperature.

        Args:
            head: Tensors of the head by name.
        """
        return []

    def batch_outputs(self, model: nn.Module, batch: Batch) -> Sequence[Tensor]:
        """Return what `score` needs of a batch, one tensor on the CPU per sample; costs one forward pass."""
        return self.outputs(model(**model_inputs(batch)).logits.float(), batch)

    def batch_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the model's mean loss on a batch, a scalar; costs one forward pass."""
        return self.loss(model(**model_inputs(batch)).logits, batch)


class EncodedData:
    """A data set as token ids, with the text features of every sample.

    Args:
        task: Task of the samples.
        columns: Model inputs by name, `input_ids` among them, and the targets under `TARGETS`. A column holds an
            integer array [num_tokens] or a number per sample.
        complexities: Lexical entropy (nats) and OOV rate of each sample, float [num_samples, 2].
        pad_token_id: Token id that pads a sample to the length of its batch.
        padding_side: "right" for encoders. Decoders that read their last token take either side.
    """

    def __init__(
        self,
        task: Task,
        columns: Mapping[str, Sequence[Any]],
        complexities: FloatArray,
        pad_token_id: int,
        padding_side: str = "right",
    ) -> None:
        self.task = task
        self.columns = columns
        self.complexities = complexities
        self.lengths = np.asarray([len(ids) for ids in columns["input_ids"]])
        self._padding = {"input_ids": pad_token_id, TARGETS: IGNORED}
        self._right = padding_side == "right"

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def targets(self) -> Sequence[Any]:
        """Target of each sample."""
        return self.columns[TARGETS]

    def batch(self, indices: Sequence[int] | IntArray, device: torch.device) -> dict[str, Tensor]:
        """Return the columns of some samples, and `attention_mask` int64 [batch, longest].

        Columns with a value per token are padded to int64 [batch, longest], the others are [batch].
        """
        rows = {name: [column[index] for index in indices] for name, column in self.columns.items()}
        rows["attention_mask"] = [np.ones(self.lengths[index], dtype=np.int64) for index in indices]
        arrays = {
            name: self._padded(values, self._padding.get(name, 0)) if np.ndim(values[0]) else np.asarray(values)
            for name, values in rows.items()
        }
        return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}

    def _padded(self, rows: Sequence[IntArray], fill: int) -> IntArray:
        longest = max(map(len, rows))
        padded = np.full((len(rows), longest), fill, dtype=np.int64)
        for row, values in zip(padded, rows, strict=True):
            row[: len(values)] = values
            if not self._right:
                row[:] = np.roll(row, longest - len(values))
        return padded

    def complexity(self, indices: Sequence[int] | IntArray | None = None) -> TextComplexity:
        """Return the mean text features of the samples at `indices`, or of all samples."""
        chosen = self.complexities if indices is None else self.complexities[np.asarray(indices)]
        entropy_nats, oov_rate = chosen.mean(axis=0)
        return TextComplexity(entropy_nats=float(entropy_nats), oov_rate=float(oov_rate))

    def in_order(self, batch_size: int) -> Iterator[IntArray]:
        """Yield the indices of every sample once, in batches of similar length, shortest first."""
        order = np.argsort(self.lengths, kind="stable")
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]


def model_inputs(batch: Batch) -> dict[str, Tensor]:
    """Return the tensors of a batch that a model is called with: all but the targets."""
    return {name: tensor for name, tensor in batch.items() if name != TARGETS}


def find_task(name: str) -> type[Task]:
    """Return the task called `name`; raises `SettingsError` if there is none."""
    tasks = _tasks()
    if name not in tasks:
        raise SettingsError.of("task", name, f"one of {', '.join(tasks)}")
    return tasks[name]


def find_metrics(names: Collection[str]) -> tuple[Metric, ...]:
    """Return the metrics of the task whose metrics are all among the names; none if there is no such task."""
    tasks = _tasks().values()
    return next((task.metrics for task in tasks if all(metric.name in names for metric in task.metrics)), ())


def _tasks() -> dict[str, type[Task]]:
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__package__}.{module.name}")
    return {task.name: task for task in Task.__subclasses__() if not inspect.isabstract(task)}
