"""Training of a seeded adapter for a size of its stream."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load
from safetensors.torch import save

from airlora.errors import CheckpointError, SettingsError
from airlora.files import read_bytes, write_bytes
from airlora.packing import SeededForm
from airlora.ranks import RankPattern
from airlora.training.context import RunContext
from airlora.training.finetune import FineTuner
from airlora.training.settings import Settings
from airlora.training.stream_metadata import stream_header

__all__ = ["load_coefficients", "save_coefficients", "seeded_form", "train_seeded_stream"]

_COEFFICIENTS = "coefficients"

FloatArray = npt.NDArray[np.float32]


def seeded_form(context: RunContext, settings: Settings) -> SeededForm | None:
    """Return the seeded form of a run's adapter, or None if its settings have another form.

    Args:
        context: Model, adapter and data of the run.
        settings: Settings of the run.
    """
    if settings.adapter.form != "seeded":
        return None
    header = stream_header(context.adapted, settings, context.fingerprint, context.task)
    return SeededForm(context.adapted, header, stream_bytes=settings.adapter.stream_bytes, seed=settings.seed)


def train_seeded_stream(
    context: RunContext, settings: Settings, *, on_step: Callable[[int], None] = lambda step: None
) -> bytes:
    """Train a seeded adapter and return its stream.

    Args:
        context: Model, adapter and data. The adapter is overwritten.
        settings: Settings with the seeded form and a size, see `seeded_recipe`.
        on_step: Function called after every step with its number.

    Raises:
        SettingsError: The settings have another form, or no size.
        TrainingError: A loss is not finite.
    """
    form = seeded_form(context, settings)
    if form is None:
        raise SettingsError.of("adapter.form", settings.adapter.form, "'seeded'")
    tuner = FineTuner(context.adapted, context.train, settings, context.device, form)
    full = RankPattern.constant(context.adapted.shapes, context.adapted.r_max)
    for step in range(1, settings.finetune.steps + 1):
        tuner.train_step(full)
        on_step(step)
    return form.encode()


def save_coefficients(form: SeededForm, path: Path | str) -> None:
    """Write coefficients and head before rounding to a file, atomically; raises `StorageError`."""
    tensors = {_COEFFICIENTS: form.coefficients, **form.head}
    write_bytes(path, save({name: own.detach().float().cpu().contiguous() for name, own in tensors.items()}))


def load_coefficients(path: Path | str) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Return coefficients [D] and head from a file that `save_coefficients` wrote.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    try:
        tensors = load(read_bytes(path, "coefficients", CheckpointError))
        return tensors.pop(_COEFFICIENTS), tensors
    except (SafetensorError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__}: {error})") from error
