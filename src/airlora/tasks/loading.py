"""Loading of base model, adapter and vocabulary by the settings of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from airlora.adapters import AdaptedModel, base_fingerprint, inject, load_base_model, remove_dropout
from airlora.errors import SettingsError
from airlora.tasks.base import Task
from airlora.tasks.precision import pick_device, set_threads
from airlora.tasks.settings import LoadSettings
from airlora.text import FileVocabulary, TokenizerVocabulary, Vocabulary

__all__ = ["head_modules", "hidden_size", "load_adapted", "load_base", "make_vocabulary"]


def make_vocabulary(settings: LoadSettings, tokenizer: Any) -> Vocabulary:
    """Return the vocabulary in the settings' file, or the words that are one token of the tokenizer.

    Raises:
        DataError: The vocabulary file is missing or damaged.
    """
    if settings.data.vocabulary is not None:
        return FileVocabulary.from_file(settings.data.vocabulary)
    return TokenizerVocabulary(tokenizer)


def head_modules(settings: LoadSettings, task: Task) -> Sequence[str] | None:
    """Return the head modules of the settings, or those of the task if none are set; see `find_head`."""
    return task.head_modules if settings.adapter.head_modules is None else settings.adapter.head_modules


def load_base(settings: LoadSettings, task: Task) -> tuple[Any, Any]:
    """Return the base model of the settings with a head for the task, without an adapter, and its tokenizer.

    Raises:
        ModelError: The model is missing, damaged, or has no head for the task.
    """
    model, tokenizer = load_base_model(
        settings.model.name,
        num_labels=task.num_outputs,
        auto_model=task.auto_model,
        dtype=getattr(torch, settings.model.dtype),
        seed=settings.seed,
        attn_implementation=settings.model.attn_implementation,
        init=settings.model.init,
    )
    task.verify_model(model)
    if not settings.model.dropout:
        remove_dropout(model)
    return model, tokenizer


def load_adapted(settings: LoadSettings, task: Task) -> tuple[AdaptedModel, Any, str, torch.device]:
    """Return the base model with a new adapter on its device, its tokenizer, its fingerprint and the device.

    Raises:
        ModelError: The model is missing, damaged, or has no head for the task.
        SettingsError: `data.max_length` exceeds the model's longest text, or the device is not available.
        RankPatternError: `adapter.r_max` exceeds the dimension of an adapted module.
    """
    set_threads(settings.num_threads)
    device = pick_device(settings.device)
    model, tokenizer = load_base(settings, task)
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and settings.data.max_length > longest:
        raise SettingsError.of("data.max_length", settings.data.max_length, f"1 to {longest}, the model's longest text")
    adapter, head = settings.adapter, head_modules(settings, task)
    fingerprint = base_fingerprint(model, head_modules=head)
    adapted = inject(
        model.to(device),
        r_max=adapter.r_max,
        scale=adapter.scale,
        dropout=adapter.dropout,
        target_modules=adapter.target_modules,
        head_modules=head,
        ffn_update=adapter.ffn_update,
        dtype=getattr(torch, adapter.dtype),
        seed=settings.seed,
    )
    if adapter.gradient_checkpointing:
        adapted.enable_gradient_checkpointing()
    return adapted, tokenizer, fingerprint, device


def hidden_size(model: torch.nn.Module) -> int:
    """Return the hidden size d_h of a model of `transformers`."""
    config: Any = model.config
    return int(config.get_text_config().hidden_size)
