"""Loading of data, base model and adapter."""

from __future__ import annotations

from typing import Any

import torch

from airlora.adapters import AdaptedModel, base_fingerprint, inject, load_base_model, remove_dropout
from airlora.errors import SettingsError
from airlora.tasks.precision import pick_device, set_threads
from airlora.tasks.settings import LoadSettings
from airlora.text import FileVocabulary, TextDataset, TokenizerVocabulary, Vocabulary, embedded_corpus, load_dataset

__all__ = ["hidden_size", "load_adapted", "load_base", "load_data", "make_vocabulary"]

EMBEDDED_CORPUS_SEED = 42
"""The embedded corpus is one fixed data set, whatever the seed of a run."""


def load_data(settings: LoadSettings) -> tuple[TextDataset, TextDataset]:
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


def make_vocabulary(settings: LoadSettings, tokenizer: Any) -> Vocabulary:
    """Return the settings' vocabulary file, or the words that are one token of the model; raises `DataError`."""
    if settings.data.vocabulary is not None:
        return FileVocabulary.from_file(settings.data.vocabulary)
    return TokenizerVocabulary(tokenizer)


def load_base(settings: LoadSettings, num_labels: int) -> tuple[Any, Any]:
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


def load_adapted(settings: LoadSettings, num_labels: int) -> tuple[AdaptedModel, Any, str, torch.device]:
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
