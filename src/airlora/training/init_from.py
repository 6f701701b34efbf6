"""Continuing from an adapter: a PEFT folder, a stream, or a finished run."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from airlora.adapters import fill_update, load_adapter, thin_svd
from airlora.adapters.peft import load_peft
from airlora.codec import decode_stream
from airlora.errors import AdapterError
from airlora.identity import is_same_base
from airlora.training.context import RunContext
from airlora.training.opening import read_stream_bytes
from airlora.training.run import RunFolder

__all__ = ["init_from"]

log = logging.getLogger(__name__)


def init_from(context: RunContext, source: Path | str) -> None:
    """Load an adapter into the model of a run, so that its training continues.

    Components beyond its ranks have coefficient zero and directions orthonormal to the others.

    Args:
        context: Model with a new adapter.
        source: Folder of a PEFT LoRA or AdaLoRA, file of a stream, or folder of a finished run with the same
            `adapter.r_max` and `adapter.scale`.

    Raises:
        AdapterError: The adapter does not fit the model, or its rank is above `adapter.r_max`.
        AirloraError: The source cannot be read.
    """
    path, adapted = Path(source), context.adapted
    if path.is_file():
        _load_stream(context, path)
    elif (path / "adapter_config.json").is_file() and not (path / "settings.toml").is_file():
        load_peft(adapted, path)
    else:
        folder = RunFolder(path)
        folder.record()
        load_adapter(adapted, folder.adapter_path)
    # Frozen training begins at all ranks.
    adapted.set_ranks([adapted.r_max] * len(adapted.shapes))
    log.info("continuing from the adapter in %s", path)


def _load_stream(context: RunContext, path: Path) -> None:
    adapted, decoded = context.adapted, decode_stream(read_stream_bytes(path))
    header = decoded.header
    if not is_same_base(header.base_fingerprint, context.fingerprint, "bfloat16"):
        wanted, found = header.base_fingerprint[:12], context.fingerprint[:12]
        raise AdapterError(f"stream {path}: made for the base model {wanted}, this is {found}")
    if dict(header.modules) != adapted.shapes:
        unknown = sorted(set(header.modules) ^ set(adapted.shapes)) or ["shapes"]
        raise AdapterError(f"stream {path}: adapts other modules than the run, such as {unknown[0]}")
    components = {name: thin_svd(torch.from_numpy(U), torch.from_numpy(V)) for name, (U, V) in decoded.modules.items()}
    for name, (_, s, _) in components.items():
        if len(s) > adapted.r_max:
            raise AdapterError.of(f"stream {path}: rank of {name}", len(s), f"at most adapter.r_max = {adapted.r_max}")
    head = adapted.head_state()
    if missing := [name for name in header.tensors if name not in decoded.tensors]:
        raise AdapterError(f"stream {path}: lacks {missing[0]} of the classification head; give the whole stream")
    if wrong := [name for name, own in decoded.tensors.items() if name not in head or head[name].shape != own.shape]:
        raise AdapterError(f"stream {path}: its tensor {wrong[0]} is none of the model's head")
    for name, update in adapted.updates.items():
        fill_update(update, *components[name])
    with torch.no_grad():
        for name, own in decoded.tensors.items():
            head[name].copy_(torch.from_numpy(own))
