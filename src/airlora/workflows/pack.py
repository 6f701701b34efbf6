"""What a user does with streams: pack a run, unpack, export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from airlora.adapters import AdaptedModel, load_adapter, save_adapter
from airlora.adapters.peft import export_peft, export_uniform
from airlora.codec import DecodedStream, decode_stream, describe
from airlora.errors import SettingsError
from airlora.files import make_folder, write_bytes, write_json
from airlora.packing import Packing, pack_adapter
from airlora.progress import Watcher
from airlora.settings.sizes import parse_size
from airlora.training import OpenStream, RunFolder, assemble, open_run, open_stream, read_stream_bytes, stream_header

__all__ = ["export_adapter", "pack_bytes", "pack_run", "parse_size", "read_earlier", "unpack_stream"]


def pack_run(
    run: Path | str, out: Path | str, packing: Packing, *, since: Path | str | None = None, watcher: Watcher
) -> dict[str, Any]:
    """Return what a run's adapter came to as a stream, having written it to the file `out`.

    Args:
        run: Folder of a finished run; its training data must still be there.
        out: The file.
        packing: How.
        since: File of a stream that devices hold: only what changed is sent, unless the whole is smaller.
        watcher: Is told of the progress.

    Raises:
        AirloraError: Run, data or settings are not usable, or the file cannot be written.
    """
    held = None if since is None else read_stream_bytes(since)
    data = pack_bytes(run, packing, since=held, watcher=watcher)
    # Read back first: what cannot be decoded is not to be kept.
    result = describe(data, base=None if held is None else decode_stream(held, strict=True))
    write_bytes(out, data)
    return result | {"stream": str(out), "model": RunFolder(run).record().model}


def pack_bytes(run: Path | str, packing: Packing, *, since: bytes | None = None, watcher: Watcher) -> bytes:
    """Return a run's adapter as a stream; see `pack_run`."""
    folder = RunFolder(run)
    folder.record()
    settings = folder.settings()
    bench = assemble(settings)
    load_adapter(bench.adapted, folder.adapter_path)
    header = stream_header(bench.adapted, settings, bench.fingerprint, bench.label_names)
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


def unpack_stream(
    stream: Path | str,
    out: Path | str,
    *,
    max_bytes: int | None = None,
    model: str | None = None,
    since: Path | str | None = None,
) -> dict[str, Any]:
    """Return what came of a stream, having written `adapter.safetensors` and `stream.json` to the folder `out`.

    Args:
        stream: The file.
        out: Folder; made if need be.
        max_bytes: Take only the first whole segments within so many bytes.
        model: See `open_stream`.
        since: File of the stream that a delta starts from.

    Raises:
        AirloraError: The stream or its base model is not usable, or the files cannot be written.
    """
    data = read_stream_bytes(stream, max_bytes=max_bytes)
    base = read_earlier(since)
    opened = open_stream(data, model=model, base=base)
    result = describe(data, base=base)
    folder = make_folder(out)
    _save(opened, folder / "adapter.safetensors")
    write_json(folder / "stream.json", result)
    return result | {"adapter": str(folder / "adapter.safetensors")}


def read_earlier(since: Path | str | None) -> DecodedStream | None:
    """Return the whole stream in the file that a delta starts from; None without one; raises `CodecError`."""
    return None if since is None else decode_stream(read_stream_bytes(since), strict=True)


def export_adapter(
    source: Path | str,
    out: Path | str,
    target: str,
    *,
    max_bytes: int | None = None,
    model: str | None = None,
    since: Path | str | None = None,
) -> dict[str, Any]:
    """Return what was written to the folder `out`: a run's adapter at its own ranks, or a stream, for another library.

    Args:
        source: Folder of a finished run, or the file of a stream.
        out: Folder; made if need be.
        target: Who reads it, see `export_peft` and `export_uniform`.
        max_bytes: Of a stream, take only the first whole segments within so many bytes.
        model: Of a stream, see `open_stream`.
        since: Of a delta, the file of the stream that it starts from.

    Raises:
        AirloraError: The adapter cannot be read, or not be said in that format.
    """
    adapted: AdaptedModel
    if Path(source).is_file():
        data = read_stream_bytes(source, max_bytes=max_bytes)
        opened_stream = open_stream(data, model=model, base=read_earlier(since))
        adapted, name = opened_stream.adapted, opened_stream.settings.model.name
    elif max_bytes is not None or since is not None:
        name, value = ("upto", max_bytes) if max_bytes is not None else ("since", str(since))
        raise SettingsError.of(name, value, "given with a stream: a run is exported at its own ranks")
    else:
        opened_run = open_run(source)
        adapted, name = opened_run.adapted, opened_run.settings.model.name
    if target == "peft":
        written = export_peft(adapted, out, base_model=name)
    else:
        written = export_uniform(adapted, out, for_=cast("Any", target), base_model=name)
    return {
        "folder": str(out),
        "for": target,
        "num_modules": written.num_modules,
        "rank": written.rank,
        "has_head": written.has_head,
        "payload_bytes": written.payload_bytes,
    }


def _save(opened: OpenStream, path: Path) -> None:
    save_adapter(opened.adapted, path, settings=opened.settings.model_dump(mode="json"))
