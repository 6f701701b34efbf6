"""An adapter in a file.

The file is safetensors, and nothing in it is ever executed:

| entry | holds |
|---|---|
| `update.NAME.P`, `.lam`, `.Q` | all r_max components of the module NAME |
| `head.NAME` | a tensor of the task head |
| metadata `airlora-adapter` | one JSON object: `AdapterMetadata` and the format's version |

The metadata are one entry because safetensors writes several in random order: so the same adapter is the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from airlora.adapters.fingerprint import base_fingerprint
from airlora.adapters.inject import AdaptedModel
from airlora.errors import AdapterError, RankPatternError, SettingsError
from airlora.files import write_bytes
from airlora.ranks import RankPattern
from airlora.version import __version__

__all__ = ["AdapterMetadata", "load_adapter", "opened", "read_adapter_metadata", "save_adapter"]

_FORMAT = "airlora-adapter"
_VERSION = "1"
_FLOATING = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class AdapterMetadata:
    """What an adapter file says of itself.

    Args:
        r_max: Components held per module.
        scale: The factor s of Eq. 2.
        rank_pattern: The ranks in force when it was saved; its names are the adapted modules, in order.
        base_fingerprint: `base_fingerprint` of the model it was trained on, 64 hexadecimal digits.
        settings: Whatever the writer wanted kept.
        library_version: airlora's version that wrote it.
    """

    r_max: int
    scale: float
    rank_pattern: RankPattern
    base_fingerprint: str
    settings: dict[str, Any]
    library_version: str


def save_adapter(adapted: AdaptedModel, path: Path | str, *, settings: Mapping[str, Any]) -> None:
    """Write all components, the head and the metadata to `path`, whole or not at all.

    Args:
        adapted: The model.
        path: The file.
        settings: Kept in the metadata; values that JSON can hold.

    Raises:
        SettingsError: A setting is nothing that JSON can hold.
        StorageError: The file cannot be written.
    """
    try:
        metadata = json.dumps(
            {
                "version": _VERSION,
                "library_version": __version__,
                "r_max": adapted.r_max,
                "scale": adapted.scale,
                "rank_pattern": adapted.rank_pattern.to_dict(),
                "base_fingerprint": base_fingerprint(adapted.model, head_modules=adapted.head_names),
                "settings": dict(settings),
            },
            allow_nan=False,
        )
    except (TypeError, ValueError) as error:
        raise SettingsError(f"settings of the adapter cannot be written as JSON: {error}") from error
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(adapted).items()}
    write_bytes(path, save(tensors, {_FORMAT: metadata}))


def read_adapter_metadata(path: Path | str) -> AdapterMetadata:
    """Return what the file says of itself, without reading its tensors.

    Raises:
        AdapterError: The file is missing, damaged, of another format or version.
    """
    with opened(path) as file:
        return _parse(file.metadata(), path)


def load_adapter(adapted: AdaptedModel, path: Path | str) -> AdapterMetadata:
    """Put a file's components, head and ranks into the model and return the metadata.

    Names, shapes and the base model are compared before any tensor is read, so a hostile file costs no more memory
    than the adapter itself.

    Args:
        adapted: A model made with the same base, modules, r_max, scale and head.
        path: A file of `save_adapter`.

    Raises:
        AdapterError: The file is missing, damaged, of another format or version, belongs to another base model, other
            modules, shapes, r_max or scale, or holds values that are not finite; the model is as it was.
    """
    targets = _tensors(adapted)
    with opened(path) as file:
        metadata = _parse(file.metadata(), path)
        _verify_fit(metadata, adapted, path)
        _verify_tensors(file, targets, path)
        _verify_base(metadata, adapted, path)
        loaded: dict[str, Tensor] = {}
        for name, target in targets.items():
            tensor = file.get_tensor(name).to(target.dtype)
            if not bool(torch.isfinite(tensor).all()):
                raise AdapterError(f"adapter {path}: {name} holds values that are not finite")
            loaded[name] = tensor
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(loaded[name])
    adapted.set_ranks(metadata.rank_pattern)
    return metadata


def _tensors(adapted: AdaptedModel) -> dict[str, Tensor]:
    """Return what a file holds, by its name there; the tensors share memory with the model."""
    components = {
        f"update.{name}.{key}": tensor
        for name, update in adapted.updates.items()
        for key, tensor in update.state_dict().items()
    }
    return components | {f"head.{name}": tensor for name, tensor in adapted.head_state().items()}


@contextlib.contextmanager
def opened(path: Path | str) -> Iterator[Any]:
    """Yield an open safetensors file; raises `AdapterError` if it is missing or damaged."""
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise AdapterError(f"adapter {path}: no such file") from error
    except OSError as error:
        raise AdapterError(f"adapter {path}: cannot be read ({error})") from error
    except SafetensorError as error:
        raise AdapterError(f"adapter {path}: damaged, or no safetensors file ({error})") from error


def _parse(entries: Mapping[str, str] | None, path: Path | str) -> AdapterMetadata:
    text = (entries or {}).get(_FORMAT)
    if text is None:
        raise AdapterError(f"adapter {path}: not written by airlora (no metadata {_FORMAT!r})")
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"adapter {path}: metadata are not valid JSON") from error
    if not isinstance(value, dict):
        raise AdapterError(f"adapter {path}: metadata are no JSON object")
    if value.get("version") != _VERSION:
        raise AdapterError.of(f"adapter {path}: version", value.get("version"), f"{_VERSION!r}")
    r_max: Any = value.get("r_max")
    scale: Any = value.get("scale")
    fingerprint: Any = value.get("base_fingerprint")
    settings: Any = value.get("settings")
    library_version: Any = value.get("library_version")
    if type(r_max) is not int or r_max < 1:
        raise AdapterError.of(f"adapter {path}: r_max", r_max, "a whole number, 1 or more")
    if type(scale) not in (int, float) or not (math.isfinite(scale) and scale > 0):
        raise AdapterError.of(f"adapter {path}: scale", scale, "a finite number above 0")
    if not isinstance(fingerprint, str) or len(fingerprint) != 64 or not set(fingerprint) <= set("0123456789abcdef"):
        raise AdapterError.of(f"adapter {path}: base_fingerprint", fingerprint, "64 hexadecimal digits")
    if not isinstance(settings, dict):
        raise AdapterError.of(f"adapter {path}: settings", settings, "a JSON object")
    if not isinstance(library_version, str):
        raise AdapterError.of(f"adapter {path}: library_version", library_version, "a string")
    pattern = _parse_pattern(value.get("rank_pattern"), r_max, path)
    return AdapterMetadata(r_max, float(scale), pattern, fingerprint, settings, library_version)


def _parse_pattern(value: Any, r_max: int, path: Path | str) -> RankPattern:
    if not isinstance(value, dict) or not value:
        raise AdapterError.of(f"adapter {path}: rank_pattern", value, "a JSON object of module name to rank")
    try:
        pattern = RankPattern(value)
    except RankPatternError as error:
        raise AdapterError(f"adapter {path}: {error}") from error
    if max(pattern.ranks) > r_max:
        raise AdapterError.of(f"adapter {path}: largest rank", max(pattern.ranks), f"0 to r_max = {r_max}")
    return pattern


def _verify_fit(metadata: AdapterMetadata, adapted: AdaptedModel, path: Path | str) -> None:
    missing = [name for name in adapted.shapes if name not in metadata.rank_pattern]
    unknown = [name for name in metadata.rank_pattern if name not in adapted.shapes]
    if missing or unknown:
        lacks = f"lacks {len(missing)} of the model's modules" if missing else "has all of the model's modules"
        raise AdapterError(
            f"adapter {path}: adapts other modules: it {lacks} and has {len(unknown)} others,"
            f" such as {(missing or unknown)[0]}"
        )
    if metadata.r_max != adapted.r_max:
        raise AdapterError.of(f"adapter {path}: r_max", metadata.r_max, f"the model's, {adapted.r_max}")
    if metadata.scale != adapted.scale:
        raise AdapterError.of(f"adapter {path}: scale", metadata.scale, f"the model's, {adapted.scale}")


def _verify_tensors(file: Any, targets: Mapping[str, Tensor], path: Path | str) -> None:
    names = set(file.keys())
    for name in [*(targets.keys() - names), *(names - targets.keys())]:
        which = "lacks" if name in targets else "holds an unknown"
        raise AdapterError(f"adapter {path}: {which} tensor {name}")
    for name, target in targets.items():
        entry = file.get_slice(name)
        if list(entry.get_shape()) != list(target.shape):
            raise AdapterError.of(f"adapter {path}: shape of {name}", entry.get_shape(), str(list(target.shape)))
        if (entry.get_dtype() in _FLOATING) != target.is_floating_point():
            raise AdapterError.of(f"adapter {path}: type of {name}", entry.get_dtype(), f"the model's, {target.dtype}")


def _verify_base(metadata: AdapterMetadata, adapted: AdaptedModel, path: Path | str) -> None:
    fingerprint = base_fingerprint(adapted.model, head_modules=adapted.head_names)
    if metadata.base_fingerprint != fingerprint:
        raise AdapterError(
            f"adapter {path}: belongs to base model {metadata.base_fingerprint[:12]}, this is {fingerprint[:12]}"
        )
