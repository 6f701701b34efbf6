"""Preparation of a release: the stream, and the measured accuracy of its prefixes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from airlora.codec import StreamReader, decode_stream, truncate
from airlora.delivery.repository.manifest import PrefixScore
from airlora.errors import SettingsError
from airlora.packing import Packing, predict_decoded
from airlora.progress import ProgressReporter, SilentProgress
from airlora.tasks import Dataset
from airlora.training import OpenRun, OpenStream, open_run, open_stream, read_stream_bytes
from airlora.workflows.open_source import read_data
from airlora.workflows.pack import pack_bytes

__all__ = ["MAX_PREFIXES", "measure_prefixes", "prepare_release"]

MAX_PREFIXES = 10
"""Largest number of measured prefixes. Each adds about 80 bytes to the manifest and takes a pass over the data."""


def prepare_release(
    source: Path | str,
    packing: Packing | None,
    *,
    data: str | None = None,
    model: str | None = None,
    watcher: ProgressReporter | None = None,
) -> tuple[bytes, list[PrefixScore]]:
    """Return the stream to release, and the measured quality and loss of its prefixes.

    Args:
        source: Folder of a finished run, or file of a stream.
        packing: Options of packing for a run. None selects the defaults; a stream allows None alone.
        data: Data to measure on. None selects the run's evaluation data; for a stream, nothing is measured.
        model: For a stream: name or folder of the base model, see `open_stream`.
        watcher: Receiver of the progress.

    Raises:
        AirloraError: The run, the stream or the data cannot be used.
    """
    watcher = watcher or SilentProgress()
    opened: OpenRun | OpenStream
    if Path(source).is_file():
        if packing is not None:
            raise SettingsError(f"{source}: is a stream, which is packed already; leave the options of packing out")
        stream = read_stream_bytes(source)
        if data is None:
            return stream, []
        opened = open_stream(stream, model=model)
        return stream, measure_prefixes(stream, read_data(opened, data), model=model, watcher=watcher)
    stream = pack_bytes(source, packing or Packing(), watcher=watcher)
    opened = open_run(source)
    return stream, measure_prefixes(
        stream, read_data(opened, data), model=model or opened.settings.model.name, watcher=watcher
    )


def measure_prefixes(
    stream: bytes, data: Dataset, *, model: str | None = None, watcher: ProgressReporter | None = None
) -> list[PrefixScore]:
    """Return quality and loss of up to `MAX_PREFIXES` prefixes of a stream, from the complete classification head on.

    The quality is that of the task, see `Task.quality`. That of classification is the accuracy.

    Args:
        stream: Complete stream.
        data: Held-out data to measure on.
        model: Name or folder of the base model, see `open_stream`.
        watcher: Receiver of the progress.

    Raises:
        AirloraError: The stream cannot be opened; see `open_stream`.
    """
    watcher = watcher or SilentProgress()
    opened = open_stream(stream, model=model)
    samples, cuts = opened.encode(data), []
    sizes = _sizes(stream)
    watcher.phase("measuring prefixes", len(sizes))
    for number, size in enumerate(sizes, 1):
        decoded = decode_stream(truncate(stream, size))
        batch_size = opened.settings.finetune.eval_batch_size
        found = predict_decoded(opened.adapted, decoded, samples, opened.device, batch_size).evaluation
        accuracy, loss = round(opened.task.quality(found.values), 4), round(found.loss, 4)
        count = decoded.num_components
        cuts.append(PrefixScore(num_bytes=size, num_components=count, accuracy=accuracy, loss=loss))
        watcher.step(number, {found.primary.name: found.score})
    return cuts


def _sizes(stream: bytes) -> list[int]:
    """Return ends of segments with about equal ratios, from the first with the whole head to the last."""
    reader = StreamReader(stream)
    ends: list[int] = []
    wanted = set(reader.index.header.tensors)
    while (span := reader.next_range) is not None:
        reader.feed(stream[span[0] : span[1]])
        if ends or set(reader.result().tensors) == wanted:
            ends.append(span[1])
    if len(ends) <= MAX_PREFIXES:
        return ends
    targets = np.geomspace(ends[0], ends[-1], MAX_PREFIXES)
    return sorted({min(ends, key=lambda end: abs(end - target)) for target in targets})
