"""Saving and loading of the state of an unfinished run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from airlora.errors import CheckpointError
from airlora.files import seal, unseal, write_bytes
from airlora.identity import is_same_base

__all__ = ["load_checkpoint", "save_checkpoint"]

_VERSION = 1


def save_checkpoint(path: Path | str, state: dict[str, Any], *, fingerprint: str) -> None:
    """Write a state to a file atomically.

    Args:
        path: Path of the file.
        state: Nested dicts and lists of tensors, numbers, strings and None.
        fingerprint: Fingerprint of the base model. `load_checkpoint` refuses any other model.

    Raises:
        StorageError: The file cannot be written. An earlier checkpoint is unchanged.
    """
    buffer = io.BytesIO()
    torch.save({"fingerprint": fingerprint, "state": state}, buffer)
    write_bytes(path, seal(buffer.getvalue(), "checkpoint", _VERSION))


def load_checkpoint(path: Path | str, *, fingerprint: str) -> dict[str, Any]:
    """Return the state in a file without executing any code in it.

    Args:
        path: Path of the file.
        fingerprint: Fingerprint of the base model.

    Raises:
        CheckpointError: The file is missing, damaged, foreign, of another version or for another base model.
    """
    data = unseal(path, "checkpoint", _VERSION, CheckpointError)
    try:
        value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"checkpoint {path}: damaged or not a checkpoint ({type(error).__name__})") from error
    if not is_same_base(value["fingerprint"], fingerprint):
        raise CheckpointError(
            f"checkpoint {path}: made for the base model {value['fingerprint'][:12]}, this one is {fingerprint[:12]}"
        )
    state: dict[str, Any] = value["state"]
    return state
