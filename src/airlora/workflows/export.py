"""Export of an adapter in the formats of other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from airlora.adapters.peft import export_peft, export_uniform
from airlora.workflows.open_source import open_source

__all__ = ["export_adapter"]


def export_adapter(
    source: Path | str,
    out: Path | str,
    target: str,
    *,
    max_bytes: int | None = None,
    model: str | None = None,
    since: Path | str | None = None,
) -> dict[str, Any]:
    """Write the adapter of a run, at its own ranks, or of a stream for another library; return its description.

    Args:
        source: Folder of a finished run, or file of a stream.
        out: Folder to write to. It is created if it does not exist.
        target: Target library: `peft`, see `export_peft`; `vllm` or `llama.cpp`, see `export_uniform`.
        max_bytes: For a stream: size of the prefix to read, bytes.
        model: For a stream: name or folder of the base model, see `open_stream`.
        since: For a delta: file of the complete stream that it refers to.

    Raises:
        AirloraError: The adapter cannot be read, or the format cannot hold it.
    """
    opened = open_source(source, max_bytes=max_bytes, model=model, since=since)
    name = opened.settings.model.name
    if target == "peft":
        written = export_peft(opened.adapted, out, base_model=name)
    else:
        written = export_uniform(opened.adapted, out, for_=cast("Any", target), base_model=name)
    return {
        "folder": str(out),
        "for": target,
        "num_modules": written.num_modules,
        "rank": written.rank,
        "has_head": written.has_head,
        "payload_bytes": written.payload_bytes,
    }
