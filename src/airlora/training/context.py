"""Model, adapter and data of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from airlora.adapters import AdaptedModel
from airlora.errors import DataError
from airlora.tasks import (
    Dataset,
    EncodedData,
    Task,
    find_task,
    hidden_size,
    load_adapted,
    make_vocabulary,
)
from airlora.text import Vocabulary
from airlora.training.settings import Settings

__all__ = ["RunContext", "build_context", "read_held_out"]


@dataclass
class RunContext:
    """Model, adapter and data of a run.

    Args:
        task: Task of the run.
        adapted: Base model with its adapter, on `device`.
        tokenizer: Tokenizer of the model.
        fingerprint: Fingerprint of the base model.
        train: Training samples.
        calibration: Training samples held out from fine-tuning, for measuring losses and importance.
        eval: Evaluation samples. They influence no choice but early stopping.
        vocabulary: Known words, for the out-of-vocabulary rate.
        device: Device of the model.
        hidden_size: Hidden size d_h of the model, for the paper's count of parameters.
    """

    task: Task
    adapted: AdaptedModel
    tokenizer: Any
    fingerprint: str
    train: EncodedData
    calibration: EncodedData
    eval: EncodedData
    vocabulary: Vocabulary
    device: torch.device
    hidden_size: int


def build_context(settings: Settings) -> RunContext:
    """Return model, new adapter and data of a run.

    One tenth of the training data, at most `env.frozen_batches * env.frozen_batch_size` samples, is held out for
    calibration. Losses on samples that the adapter was fitted to say little about the importance of components.

    Raises:
        AirloraError: Data, model or settings are invalid; the message names the culprit.
    """
    task, data = find_task(settings.task).from_data(settings.data)
    held_out = task.read(settings.data)
    adapted, tokenizer, fingerprint, device = load_adapted(settings, task)
    vocabulary = make_vocabulary(settings, tokenizer)
    train, calibration, evaluation = (
        task.encode(part, tokenizer, vocabulary, settings.data.max_length)
        for part in (*_split(data, settings), held_out)
    )
    return RunContext(
        task=task,
        adapted=adapted,
        tokenizer=tokenizer,
        fingerprint=fingerprint,
        train=train,
        calibration=calibration,
        eval=evaluation,
        vocabulary=vocabulary,
        device=device,
        hidden_size=hidden_size(adapted.model),
    )


def read_held_out(context: RunContext, settings: Settings, source: str | None) -> EncodedData | None:
    """Return the samples of another file or data set for the run's task, or None without a source.

    Raises:
        DataError: The data are missing, empty or malformed.
    """
    if source is None:
        return None
    data = context.task.read(settings.data, source)
    return context.task.encode(data, context.tokenizer, context.vocabulary, settings.data.max_length)


def _split(data: Dataset, settings: Settings) -> tuple[Dataset, Dataset]:
    """Return training and calibration samples."""
    wanted = settings.env.frozen_batches * settings.env.frozen_batch_size
    num_held = min(wanted, len(data) // 10)
    if num_held < 1:
        raise DataError.of(f"samples in {data.name}", len(data), "10 or more, a tenth is kept for calibration")
    order = np.random.default_rng(settings.seed).permutation(len(data))
    return data.subset(sorted(order[num_held:].tolist())), data.subset(sorted(order[:num_held].tolist()))
