"""Packing the adapter of a finished run into a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airlora.adapters import load_adapter
from airlora.codec import StreamHeader, decode_stream, describe
from airlora.errors import SettingsError
from airlora.files import write_bytes
from airlora.packing import Packing, encode_coefficients, pack_adapter
from airlora.progress import ProgressReporter
from airlora.training import (
    RunFolder,
    Settings,
    build_context,
    load_coefficients,
    read_stream_bytes,
    stream_header,
)

__all__ = ["default_qat_steps", "pack_bytes", "pack_coefficients", "pack_run"]


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


def default_qat_steps(run: Path | str) -> int:
    """Return the steps of quantisation-aware fine-tuning that a run's settings give for its streams.

    Raises:
        AirloraError: The run is not finished, or damaged.
    """
    folder = RunFolder(run)
    folder.record()
    settings = folder.settings()
    return 0 if settings.adapter.form == "seeded" else settings.finetune.qat_steps


def pack_bytes(run: Path | str, packing: Packing, *, since: bytes | None = None, watcher: ProgressReporter) -> bytes:
    """Return a run's adapter as a stream; arguments and errors are those of `pack_run`, with the bytes of `since`."""
    folder = RunFolder(run)
    folder.record()
    settings = folder.settings()
    bench = build_context(settings)
    load_adapter(bench.adapted, folder.adapter_path)
    header = stream_header(bench.adapted, settings, bench.fingerprint, bench.task)
    if header.basis is not None:
        return pack_coefficients(folder, header, max_bytes=_seeded_bytes(folder, settings, packing, since))
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


def pack_coefficients(folder: RunFolder, header: StreamHeader, *, max_bytes: int) -> bytes:
    """Return the stream of a seeded run at a size.

    Args:
        folder: Folder of a finished seeded run.
        header: Header of the run's streams.
        max_bytes: Size of the stream, bytes.

    Raises:
        CheckpointError: The coefficients are missing or damaged.
        CodecError: The coefficients do not fit the header, or the size is not allowed.
    """
    coefficients, head = load_coefficients(folder.coefficients_path)
    return encode_coefficients(header, coefficients, head, max_bytes=max_bytes)


def _seeded_bytes(folder: RunFolder, settings: Settings, packing: Packing, since: bytes | None) -> int:
    """Return the size of a seeded adapter's stream: that which it was trained for unless another one is given."""
    if packing.bits != "auto" or packing.qat_steps or packing.importance is not None or since is not None:
        raise SettingsError(
            f"{folder.path}: a seeded adapter was trained under the rounding of its stream; allowed is --size alone"
        )
    max_bytes = packing.max_bytes or settings.adapter.stream_bytes
    if max_bytes is None:
        raise SettingsError(f"{folder.path}: the seeded adapter has no size; give one by --size, such as 4kB")
    return max_bytes
