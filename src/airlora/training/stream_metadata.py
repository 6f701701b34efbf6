"""Header of a run's streams, and the metadata from which a receiver loads the model and reads texts as in training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from airlora.adapters import AdaptedModel
from airlora.codec import SeededBasis, StreamHeader
from airlora.errors import CodecError, SettingsError
from airlora.settings.loading import validate
from airlora.tasks import Task, find_task
from airlora.training.settings import Settings, load_settings

__all__ = ["settings_of_stream", "stream_header", "stream_metadata"]

_KEYS = (
    "task",
    "model.name",
    "model.init",
    "model.dtype",
    "data.max_length",
    "data.text_column",
    "data.text_pair_column",
    "data.label_column",
    "data.prompt_column",
    "data.completion_column",
    "data.messages_column",
    "adapter.target_modules",
    "adapter.head_modules",
    "adapter.ffn_update",
)
"""Settings that are sent if they differ from the defaults."""

_SHORT_NAMES = {"label_names": "labels", "sample_format": "samples"}
"""Names in the metadata of a stream for fields of tasks: every byte is sent."""


def stream_metadata(settings: Settings, task: Task) -> dict[str, Any]:
    """Return the fields of the task, and the settings that differ from the defaults."""
    default = load_settings()
    changed = {key: value for key in _KEYS if (value := _at(settings, key)) != _at(default, key)}
    if settings.model.init == "random":
        changed["seed"] = settings.seed
    if Path(settings.model.name).is_dir():
        # The sender's path is private and of no use to a receiver.
        changed["model.name"] = Path(settings.model.name).resolve().name
    fields = {
        _SHORT_NAMES.get(name, name): value
        for name, value in task.model_dump(mode="json", exclude_defaults=True).items()
    }
    return fields | ({"set": changed} if changed else {})


def stream_header(adapted: AdaptedModel, settings: Settings, fingerprint: str, task: Task) -> StreamHeader:
    """Return the header of a stream.

    Args:
        adapted: Model with the adapter that is sent.
        settings: Settings of the run.
        fingerprint: Fingerprint of the base model.
        task: Task of the run.
    """
    own, drawn = settings.adapter, adapted.drawn_modules
    head = adapted.head_state()
    arrays = {name: value.detach().float().cpu().numpy() for name, value in head.items()}
    return StreamHeader(
        base_fingerprint=fingerprint,
        modules=adapted.shapes,
        tensors={name: tuple(value.shape) for name, value in head.items()},
        r_max=adapted.r_max,
        scale=adapted.scale,
        metadata=stream_metadata(settings, task) | ({"drawn": list(drawn)} if drawn else {}),
        basis=None if own.form == "free" else SeededBasis(own.num_coefficients, own.r_max, seed=own.basis_seed),
        centred=tuple(task.logit_tensors(arrays)) if task.has_softmax else (),
    )


def settings_of_stream(metadata: Mapping[str, Any]) -> tuple[Settings, Task]:
    """Return settings and task of the run that a stream was made from.

    Args:
        metadata: Metadata in the header of the stream.

    Raises:
        CodecError: The metadata are missing or invalid.
    """
    changed, allowed = metadata.get("set", {}), {*_KEYS, "seed"}
    if not isinstance(changed, dict) or not changed.keys() <= allowed:
        raise CodecError.of(
            "stream: settings in its metadata", changed, f"an object with keys from {', '.join(sorted(allowed))}"
        )
    try:
        settings = load_settings(overrides=changed)
        fields = {name: metadata[short] for name, short in _SHORT_NAMES.items() if short in metadata}
        return settings, validate(find_task(settings.task), {**metadata, **fields})
    except SettingsError as error:
        raise CodecError(f"stream: metadata: {error}") from error


def _at(settings: Settings, key: str) -> Any:
    return reduce(getattr, key.split("."), settings)
