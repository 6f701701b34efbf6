"""Put together what a run works on: base model, adapter, data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from airlora.adapters import AdaptedModel, base_fingerprint, inject, load_base_model, remove_dropout
from airlora.config import Settings
from airlora.errors import DataError, SettingsError
from airlora.text import (
    FileVocabulary,
    TextDataset,
    TokenizerVocabulary,
    Vocabulary,
    embedded_corpus,
    load_dataset,
)
from airlora.training.batches import EncodedData, encode
from airlora.training.precision import pick_device, set_threads

__all__ = ["Workbench", "assemble", "load_adapted", "load_base", "load_data", "make_vocabulary", "read_held_out"]

EMBEDDED_CORPUS_SEED = 42
"""The embedded corpus is one fixed data set, whatever the seed of a run."""


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


def load_data(settings: Settings) -> tuple[TextDataset, TextDataset]:
    """Return training and evaluation data: the settings' files, or the embedded corpus.

    Raises:
        DataError: A file is missing, empty, damaged, of one class, or has labels that the training data lack.
    """
    data = settings.data
    if data.train is None or data.eval is None:
        return embedded_corpus(seed=EMBEDDED_CORPUS_SEED, num_train=data.num_train, num_dev=data.num_eval)
    train = load_dataset(data.train, text_column=data.text_column, label_column=data.label_column)
    held_out = load_dataset(
        data.eval,
        text_column=data.text_column,
        label_column=data.label_column,
        label_names=train.label_names,
        max_samples=data.max_eval_samples,
        require_classes=1,
    )
    return train, held_out


def make_vocabulary(settings: Settings, tokenizer: Any) -> Vocabulary:
    """Return the settings' vocabulary file, or the words that are one token of the model; raises `DataError`."""
    if settings.data.vocabulary is not None:
        return FileVocabulary.from_file(settings.data.vocabulary)
    return TokenizerVocabulary(tokenizer)


def load_base(settings: Settings, num_labels: int) -> tuple[Any, Any]:
    """Return the settings' base model and tokenizer, nothing adapted; raises `ModelError`."""
    model, tokenizer = load_base_model(
        settings.model.name,
        num_labels=num_labels,
        dtype=getattr(torch, settings.model.dtype),
        seed=settings.seed,
        attn_implementation=settings.model.attn_implementation,
        init=settings.model.init,
    )
    if not settings.model.dropout:
        remove_dropout(model)
    return model, tokenizer


def load_adapted(settings: Settings, num_labels: int) -> tuple[AdaptedModel, Any, str, torch.device]:
    """Return the settings' base model with a fresh adapter on its device, its tokenizer, fingerprint and device.

    Raises:
        ModelError: The model is missing, damaged, or of an unknown kind.
        SettingsError: `data.max_length` is more than the model can read, or the device is not there.
        RankPatternError: r_max is larger than a module's dimension.
    """
    set_threads(settings.num_threads)
    device = pick_device(settings.device)
    model, tokenizer = load_base(settings, num_labels)
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and settings.data.max_length > longest:
        raise SettingsError.of("data.max_length", settings.data.max_length, f"1 to {longest}, the model's longest text")
    adapter = settings.adapter
    fingerprint = base_fingerprint(model, head_modules=adapter.head_modules)
    adapted = inject(
        model.to(device),
        r_max=adapter.r_max,
        scale=adapter.scale,
        dropout=adapter.dropout,
        target_modules=adapter.target_modules,
        head_modules=adapter.head_modules,
        ffn_update=adapter.ffn_update,
        dtype=getattr(torch, adapter.dtype),
        seed=settings.seed,
    )
    if adapter.gradient_checkpointing:
        adapted.enable_gradient_checkpointing()
    return adapted, tokenizer, fingerprint, device


def hidden_size(model: torch.nn.Module) -> int:
    """Return d_h of a Hugging Face model."""
    config: Any = model.config
    return int(config.hidden_size)


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
