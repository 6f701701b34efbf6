"""Opening of runs, streams and data that a command is given."""

from __future__ import annotations

from pathlib import Path

from airlora.codec import DecodedStream, decode_stream
from airlora.errors import SettingsError
from airlora.tasks import Dataset
from airlora.training import OpenRun, OpenStream, open_run, open_stream, read_stream_bytes

__all__ = ["open_source", "read_base_stream", "read_data"]


def open_source(
    source: Path | str, *, max_bytes: int | None = None, model: str | None = None, since: Path | str | None = None
) -> OpenRun | OpenStream:
    """Return a finished run or a stream with its model in memory.

    Args:
        source: Folder of a finished run, or file of a stream.
        max_bytes: For a stream: size of the prefix to read, bytes. None reads the whole stream.
        model: For a stream: name or folder of the base model, see `open_stream`.
        since: For a delta: file of the complete stream that it refers to.

    Raises:
        SettingsError: `max_bytes` or `since` is given with a run.
        AirloraError: The run, the stream or the base model cannot be used.
    """
    if Path(source).is_file():
        return open_stream(read_stream_bytes(source, max_bytes=max_bytes), model=model, base=read_base_stream(since))
    if max_bytes is not None:
        raise SettingsError(f"upto = {max_bytes}: {source} is a run; only a stream has prefixes")
    if since is not None:
        raise SettingsError(f"since = {str(since)!r}: {source} is a run; only a stream can be a delta")
    return open_run(source)


def read_base_stream(since: Path | str | None) -> DecodedStream | None:
    """Return the complete stream that a delta refers to; None without a file.

    Raises:
        CodecError: The stream is damaged or truncated.
    """
    return None if since is None else decode_stream(read_stream_bytes(since), strict=True)


def read_data(opened: OpenRun | OpenStream, source: str | None) -> Dataset:
    """Return the data of a source for the task of a run or stream; None selects the run's evaluation data.

    Raises:
        SettingsError: There is no source, and a stream has no evaluation data.
        DataError: The data cannot be read.
    """
    if source is None and isinstance(opened, OpenStream):
        raise SettingsError("data: a stream has no evaluation data; give --data")
    return opened.task.read(opened.settings.data, source)
