"""What a stream must say so that its base model can be loaded and texts be read as in training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airlora.adapters import AdaptedModel
from airlora.codec import StreamHeader
from airlora.errors import CodecError, SettingsError
from airlora.training.settings import Settings, load_settings

__all__ = ["settings_of_stream", "stream_header", "stream_metadata"]

_KEYS = (
    "model.name",
    "model.init",
    "model.dtype",
    "data.max_length",
    "data.text_column",
    "data.label_column",
    "adapter.target_modules",
    "adapter.head_modules",
    "adapter.ffn_update",
)
"""Settings that travel, where they are not the default."""


def stream_metadata(settings: Settings, labels: tuple[str, ...]) -> dict[str, Any]:
    """Return the names of the classes, and the settings that differ from the defaults; every byte of it is sent."""
    default = load_settings()
    changed = {key: value for key in _KEYS if (value := _at(settings, key)) != _at(default, key)}
    if settings.model.init == "random":
        changed["seed"] = settings.seed
    if Path(settings.model.name).is_dir():
        # Where it lies is nobody else's business.
        changed["model.name"] = Path(settings.model.name).resolve().name
    return {"labels": list(labels)} | ({"set": changed} if changed else {})


def stream_header(adapted: AdaptedModel, settings: Settings, fingerprint: str, labels: tuple[str, ...]) -> StreamHeader:
    """Return what a stream of this adapter says of itself."""
    return StreamHeader(
        base_fingerprint=fingerprint,
        modules=adapted.shapes,
        tensors={name: tuple(value.shape) for name, value in adapted.head_state().items()},
        r_max=adapted.r_max,
        scale=adapted.scale,
        metadata=stream_metadata(settings, labels),
    )


def settings_of_stream(metadata: Mapping[str, Any]) -> tuple[Settings, tuple[str, ...]]:
    """Return settings and names of the classes that a stream was made with.

    Raises:
        CodecError: The stream says nothing of them, or nonsense.
    """
    labels, changed = metadata.get("labels"), metadata.get("set", {})
    if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(label, str) for label in labels):
        raise CodecError.of("stream: labels in its metadata", labels, "the names of two or more classes")
    allowed = {*_KEYS, "seed"}
    if not isinstance(changed, dict) or not changed.keys() <= allowed:
        raise CodecError.of("stream: settings in its metadata", changed, f"some of {', '.join(sorted(allowed))}")
    try:
        return load_settings(overrides=changed), tuple(labels)
    except SettingsError as error:
        raise CodecError(f"stream: settings in its metadata: {error}") from error


def _at(settings: Settings, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(settings, section), name)
