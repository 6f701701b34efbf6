"""Decoding a stream into the files of an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airlora.adapters import save_adapter
from airlora.codec import describe
from airlora.files import make_folder, write_json
from airlora.training import open_stream, read_stream_bytes
from airlora.workflows.open_source import read_base_stream

__all__ = ["unpack_stream"]


def unpack_stream(
    stream: Path | str,
    out: Path | str,
    *,
    max_bytes: int | None = None,
    model: str | None = None,
    since: Path | str | None = None,
) -> dict[str, Any]:
    """Write `adapter.safetensors` and `stream.json` to the folder `out`, and return the description of the stream.

    Args:
        stream: File of a stream or of its prefix.
        out: Folder to write to. It is created if it does not exist.
        max_bytes: Size of the prefix to read, bytes. None reads the whole stream.
        model: Name or folder of the base model, see `open_stream`.
        since: For a delta: file of the complete stream that it refers to.

    Raises:
        AirloraError: The stream or its base model cannot be used, or the files cannot be written.
    """
    data = read_stream_bytes(stream, max_bytes=max_bytes)
    base = read_base_stream(since)
    opened = open_stream(data, model=model, base=base)
    result = describe(data, base=base)
    adapter = make_folder(out) / "adapter.safetensors"
    save_adapter(opened.adapted, adapter, settings=opened.settings.model_dump(mode="json"))
    write_json(adapter.with_name("stream.json"), result)
    return result | {"adapter": str(adapter)}
