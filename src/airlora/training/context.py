"""Put together what a run works on: base model, adapter, data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from airlora.adapters import AdaptedModel
from airlora.errors import DataError
from airlora.tasks import EncodedData, encode, load_adapted, load_data, make_vocabulary
from airlora.tasks.loading import hidden_size
from airlora.text import TextDataset, Vocabulary, load_dataset
from airlora.training.settings import Settings

__all__ = ["Workbench", "assemble", "read_held_out"]


@dataclass
class Workbench:
    """What a run works on.

    Args:
        adapted: The base model with its adapter, on `device`.
        tokenizer: The model's.
        fingerprint: SHA-256 of the base model's weights.
        train: What fine-tuning sees.
        calibration: Training samples kept from fine-tuning, for measuring losses and importance.
        eval: What accuracy is measured on; nothing is chosen by it.
        label_names: Names of the classes, in order.
        vocabulary: What is not out of vocabulary.
        device: Where the model is.
        hidden_size: d_h, for the paper's count of numbers.
    """

    adapted: AdaptedModel
    tokenizer: Any
    fingerprint: str
    train: EncodedData
    calibration: EncodedData
    eval: EncodedData
    label_names: tuple[str, ...]
    vocabulary: Vocabulary
    device: torch.device
    hidden_size: int


def assemble(settings: Settings) -> Workbench:
    """Return everything that a run works on.

    A tenth of the training data, at most `env.frozen_batches * env.frozen_batch_size` samples, is kept from fine-tuning
    for calibration: a loss on samples that the adapter was fitted to says little about which components matter.

    Raises:
        AirloraError: Data, model or settings are not usable; the message names which.
    """
    train, held_out = load_data(settings)
    adapted, tokenizer, fingerprint, device = load_adapted(settings, train.num_labels)
    vocabulary = make_vocabulary(settings, tokenizer)
    fine_tuning, calibration = _hold_out(train, settings)
    return Workbench(
        adapted=adapted,
        tokenizer=tokenizer,
        fingerprint=fingerprint,
        train=encode(fine_tuning, tokenizer, vocabulary, settings.data.max_length),
        calibration=encode(calibration, tokenizer, vocabulary, settings.data.max_length),
        eval=encode(held_out, tokenizer, vocabulary, settings.data.max_length),
        label_names=train.label_names,
        vocabulary=vocabulary,
        device=device,
        hidden_size=hidden_size(adapted.model),
    )


def read_held_out(bench: Workbench, settings: Settings, source: str | None) -> EncodedData | None:
    """Return other samples to measure on, with the run's labels; None without a source; raises `DataError`."""
    if source is None:
        return None
    reading = settings.data
    data = load_dataset(
        source,
        text_column=reading.text_column,
        label_column=reading.label_column,
        label_names=bench.label_names,
        require_classes=1,
    )
    return encode(data, bench.tokenizer, bench.vocabulary, reading.max_length)


def _hold_out(train: TextDataset, settings: Settings) -> tuple[TextDataset, TextDataset]:
    """Return (fine-tuning, calibration) parts of the training data."""
    wanted = settings.env.frozen_batches * settings.env.frozen_batch_size
    num_held = min(wanted, len(train) // 10)
    if num_held < 1:
        raise DataError.of(f"samples in {train.name}", len(train), "10 or more, a tenth is kept for calibration")
    order = np.random.default_rng(settings.seed).permutation(len(train))
    return train.subset(sorted(order[num_held:].tolist())), train.subset(sorted(order[:num_held].tolist()))
