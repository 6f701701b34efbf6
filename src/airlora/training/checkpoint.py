"""Save and load the whole state of a run in one file that is either whole or not there."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from airlora.errors import CheckpointError
from airlora.files import seal, unseal, write_bytes

__all__ = ["load_checkpoint", "save_checkpoint"]

_VERSION = 1


def save_checkpoint(path: Path | str, state: dict[str, Any], *, fingerprint: str) -> None:
    """Write `state` (tensors and plain values) to `path`, whole or not at all.

    Args:
        path: The file.
        state: Nested dicts and lists of tensors, numbers, strings, None.
        fingerprint: Of the base model; `load_checkpoint` refuses another one.

    Raises:
        StorageError: The disk is full or read-only; an earlier checkpoint stays as it was.
    """
    buffer = io.BytesIO()
    torch.save({"fingerprint": fingerprint, "state": state}, buffer)
    write_bytes(path, seal(buffer.getvalue(), "checkpoint", _VERSION))


def load_checkpoint(path: Path | str, *, fingerprint: str) -> dict[str, Any]:
    """Return the state in `path`; no code in the file is ever run.

    Raises:
        CheckpointError: The file is missing, damaged, not airlora's, of another version or for another base model.
    """
    data = unseal(path, "checkpoint", _VERSION, CheckpointError)
    try:
        value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"checkpoint {path}: damaged or not a checkpoint ({type(error).__name__})") from error
    if value["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"checkpoint {path}: made for the base model {value['fingerprint'][:12]}, this one is {fingerprint[:12]}"
        )
    state: dict[str, Any] = value["state"]
    return state
