"""Packing the adapter of a finished run into a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airlora.adapters import load_adapter
from airlora.codec import decode_stream, describe
from airlora.files import write_bytes
from airlora.packing import Packing, pack_adapter
from airlora.progress import ProgressReporter
from airlora.training import RunFolder, build_context, read_stream_bytes, stream_header

__all__ = ["pack_bytes", "pack_run"]


def pack_run(
    run: Path | str, out: Path | str, packing: Packing, *, since: Path | str | None = None, watcher: ProgressReporter
) -> dict[str, Any]:
    """Write the stream of a run's adapter to the file `out`, and return its description.

    Args:
        run: Folder of a finished run. Requires its training data.
        out: File to write.
        packing: Options of packing.
        since: File of a complete stream that devices hold. The result is the delta to the new one, or the whole stream
            if that is smaller.
        watcher: Receiver of the progress.

    Raises:
        AirloraError: The run, its data or the options cannot be used, or the file cannot be written.
    """
    held = None if since is None else read_stream_bytes(since)
    data = pack_bytes(run, packing, since=held, watcher=watcher)
    # Decoded before it is written: a stream that cannot be read is never kept.
    result = describe(data, base=None if held is None else decode_stream(held, strict=True))
    write_bytes(out, data)
    return result | {"stream": str(out), "model": RunFolder(run).record().model}


def pack_bytes(run: Path | str, packing: Packing, *, since: bytes | None = None, watcher: ProgressReporter) -> bytes:
    """Return a run's adapter as a stream; arguments and errors are those of `pack_run`, with the bytes of `since`."""
    folder = RunFolder(run)
    folder.record()
    settings = folder.settings()
    bench = build_context(settings)
    load_adapter(bench.adapted, folder.adapter_path)
    header = stream_header(bench.adapted, settings, bench.fingerprint, bench.task)
    return pack_adapter(
        bench.adapted,
        header,
        packing,
        settings.compute_options(bench.device),
        calibration=bench.calibration,
        train=bench.train,
        since=since,
        watcher=watcher,
    )
