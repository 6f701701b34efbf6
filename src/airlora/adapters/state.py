"""Adapter files, and the fingerprint of the base model that an adapter belongs to.

An adapter file is in the safetensors format; reading it executes no code.

| entry | content |
|---|---|
| `update.NAME.P`, `.lam`, `.Q` | all r_max components of the adapted module NAME |
| `head.NAME` | a tensor of the classification head |
| metadata `airlora-adapter` | one JSON object with the format's version and the fields of `AdapterMetadata` |

The metadata form one entry because safetensors writes several entries in random order. The same adapter therefore
gives the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from airlora.adapters.injection import AdaptedModel
from airlora.adapters.projections import find_head
from airlora.adapters.svd import SVDLayer
from airlora.errors import AdapterError, RankPatternError, SettingsError
from airlora.files import write_bytes
from airlora.identity import is_same_base
from airlora.ranks import RankPattern
from airlora.version import __version__

__all__ = [
    "AdapterMetadata",
    "base_fingerprint",
    "load_adapter",
    "open_safetensors",
    "read_adapter_metadata",
    "save_adapter",
]

_FORMAT = "airlora-adapter"
_VERSION = "1"
_FLOATING = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class AdapterMetadata:
    """The metadata of an adapter file.

    Args:
        r_max: Number of components per module.
        scale: Scale s of Eq. 2.
        rank_pattern: Ranks at the time of saving. Its names are the adapted modules, in order.
        base_fingerprint: `base_fingerprint` of the base model, 64 hexadecimal digits.
        settings: Settings that the caller of `save_adapter` stored.
        library_version: Version of airlora that wrote the file.
    """

    r_max: int
    scale: float
    rank_pattern: RankPattern
    base_fingerprint: str
    settings: dict[str, Any]
    library_version: str


def base_fingerprint(model: nn.Module, *, head_modules: Sequence[str] | None = None) -> str:
    """Return the fingerprint of the base model's parameters and saved buffers, 64 hexadecimal digits.

    It joins the first halves of two SHA-256 digests, see `airlora.identity`. Each covers name, dtype, shape and bytes
    of every tensor, sorted by name, without the head. For the second one, floating-point tensors are rounded to
    bfloat16. The fingerprint is the same before and after `inject`, for any values of the updates, and on every device.

    Args:
        model: Model with or without updates.
        head_modules: Selection of the head, see `find_head`.
    """
    exact, rounded = hashlib.sha256(), hashlib.sha256()
    for name, tensor in sorted(_base_tensors(model, find_head(model, head_modules)).items()):
        half = tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        for digest, own in ((exact, tensor), (rounded, half)):
            digest.update(json.dumps([name, str(own.dtype), list(own.shape)]).encode())
            # Viewing the tensor as bytes covers bfloat16 too, which NumPy lacks.
            digest.update(own.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return exact.hexdigest()[:32] + rounded.hexdigest()[:32]


def _base_tensors(model: nn.Module, head_names: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors of the base model under their names before `inject`; they share memory with the model."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, SVDLayer)}
    replaced = tuple(f"{name}." for name in (*layers, *head_names))
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(replaced)}
    for name, layer in layers.items():
        tensors |= {f"{name}.{key}": tensor for key, tensor in layer.base.state_dict().items()}
    return tensors


def save_adapter(adapted: AdaptedModel, path: Path | str, *, settings: Mapping[str, Any]) -> None:
    """Write all components, the head and the metadata to a file, atomically.

    Args:
        adapted: Model with the adapter to save.
        path: File to write.
        settings: Settings to store in the metadata, as JSON-compatible values.

    Raises:
        SettingsError: A setting cannot be written as JSON.
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
    """Return the metadata of an adapter file without reading its tensors.

    Raises:
        AdapterError: The file is missing, damaged, of another format or version.
    """
    with open_safetensors(path) as file:
        return _parse(file.metadata(), path)


def load_adapter(adapted: AdaptedModel, path: Path | str) -> AdapterMetadata:
    """Load a file's components, head and ranks into the model and return its metadata.

    Names, shapes and the base model are compared before any tensor is read, so that a hostile file cannot make the
    reader allocate more memory than the adapter needs.

    Args:
        adapted: Model with the base, adapted modules, r_max, scale and head of the file.
        path: File written by `save_adapter`.

    Raises:
        AdapterError: The file is missing, damaged, or of another format or version. It belongs to another base model,
            other modules, shapes, r_max or scale, or holds values that are not finite. The model is unchanged then.
    """
    targets = _tensors(adapted)
    with open_safetensors(path) as file:
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
    """Return the tensors of a file by their names there; they share memory with the model."""
    components = {
        f"update.{name}.{key}": tensor
        for name, update in adapted.updates.items()
        for key, tensor in update.state_dict().items()
    }
    return components | {f"head.{name}": tensor for name, tensor in adapted.head_state().items()}


@contextlib.contextmanager
def open_safetensors(path: Path | str) -> Iterator[Any]:
    """Yield an open safetensors file.

    Raises:
        AdapterError: The file is missing, unreadable or damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise AdapterError(f"adapter {path}: no such file") from error
    except OSError as error:
        raise AdapterError(f"adapter {path}: cannot be read ({error})") from error
    except SafetensorError as error:
        raise AdapterError(f"adapter {path}: damaged or not a safetensors file ({error})") from error


def _parse(entries: Mapping[str, str] | None, path: Path | str) -> AdapterMetadata:
    text = (entries or {}).get(_FORMAT)
    if text is None:
        raise AdapterError(f"adapter {path}: not written by airlora (no metadata {_FORMAT!r})")
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"adapter {path}: metadata are not valid JSON") from error
    if not isinstance(value, dict):
        raise AdapterError(f"adapter {path}: metadata are not a JSON object")
    r_max: Any = value.get("r_max")
    scale: Any = value.get("scale")
    digest: Any = value.get("base_fingerprint")
    is_digest = isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)
    is_scale = type(scale) in (int, float) and math.isfinite(scale) and scale > 0
    for name, valid, allowed in (
        ("version", value.get("version") == _VERSION, f"{_VERSION!r}"),
        ("r_max", type(r_max) is int and r_max >= 1, "a whole number, 1 or more"),
        ("scale", is_scale, "a finite number above 0"),
        ("base_fingerprint", is_digest, "64 hexadecimal digits"),
        ("settings", isinstance(value.get("settings"), dict), "a JSON object"),
        ("library_version", isinstance(value.get("library_version"), str), "a string"),
    ):
        if not valid:
            raise AdapterError.of(f"adapter {path}: {name}", value.get(name), allowed)
    pattern = _parse_pattern(value.get("rank_pattern"), r_max, path)
    return AdapterMetadata(r_max, float(scale), pattern, digest, value["settings"], value["library_version"])


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
    if not is_same_base(metadata.base_fingerprint, fingerprint):
        raise AdapterError(
            f"adapter {path}: belongs to base model {metadata.base_fingerprint[:12]}, this is {fingerprint[:12]}"
        )
