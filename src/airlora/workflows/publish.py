"""From a run or a stream to a release: what its prefixes are worth is measured before it is signed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from airlora.adapters import LowRankUpdate, install_updates
from airlora.codec import StreamReader, cut, decode_stream
from airlora.delivery.repository.manifest import PrefixScore
from airlora.errors import SettingsError
from airlora.packing import Packing
from airlora.progress import SilentWatcher, Watcher
from airlora.tasks import evaluate
from airlora.text import TextDataset
from airlora.training import OpenRun, OpenStream, open_run, open_stream, read_stream_bytes
from airlora.workflows.inspect import read_data
from airlora.workflows.pack import pack_bytes

__all__ = ["MAX_CUTS", "measure_cuts", "prepare_release"]

MAX_CUTS = 10
"""How many prefixes are measured: each costs some 80 bytes in the manifest, and a pass over the data."""


def prepare_release(
    source: Path | str,
    packing: Packing | None,
    *,
    data: str | None = None,
    model: str | None = None,
    watcher: Watcher | None = None,
) -> tuple[bytes, list[PrefixScore]]:
    """Return the stream to release and what to expect of its prefixes.

    Args:
        source: Folder of a finished run, or the file of a stream.
        packing: How a run is packed; None for a stream.
        data: To measure on; a run has its evaluation data, and of a stream without any nothing is measured.
        model: Of a stream, see `open_stream`.
        watcher: Is told of the progress.

    Raises:
        AirloraError: Run, stream or data are not usable.
    """
    watcher = watcher or SilentWatcher()
    opened: OpenRun | OpenStream
    if Path(source).is_file():
        if packing is not None:
            raise SettingsError.of("packing", str(source), "for a run: a stream is packed already")
        stream = read_stream_bytes(source)
        if data is None:
            return stream, []
        opened = open_stream(stream, model=model)
        return stream, measure_cuts(stream, read_data(opened, data), model=model, watcher=watcher)
    stream = pack_bytes(source, packing or Packing(), watcher=watcher)
    opened = open_run(source)
    return stream, measure_cuts(
        stream, read_data(opened, data), model=model or opened.settings.model.name, watcher=watcher
    )


def measure_cuts(
    stream: bytes, data: TextDataset, *, model: str | None = None, watcher: Watcher | None = None
) -> list[PrefixScore]:
    """Return what prefixes of a stream come to on held-out data: `MAX_CUTS` at most, from the model's head on.

    Raises:
        AirloraError: The stream cannot be opened; see `open_stream`.
    """
    watcher = watcher or SilentWatcher()
    opened = open_stream(stream, model=model)
    samples, cuts = opened.encode(data), []
    sizes = _sizes(stream)
    watcher.phase("measuring prefixes", len(sizes))
    for place, size in enumerate(sizes):
        part = decode_stream(cut(stream, size))
        install_updates(
            opened.adapted, {name: LowRankUpdate(U, V) for name, (U, V) in part.modules.items()}, part.tensors
        )
        found = evaluate(opened.adapted.model, samples, opened.device, opened.settings.finetune.eval_batch_size)
        cuts.append(
            PrefixScore(
                num_bytes=size,
                num_components=part.num_components,
                accuracy=round(found.accuracy, 4),
                loss=round(found.loss, 4),
            )
        )
        watcher.step(place + 1, {"accuracy": found.accuracy})
    return cuts


def _sizes(stream: bytes) -> list[int]:
    """Return ends of segments, about evenly spaced by ratio, from the first with the whole head to the last."""
    reader = StreamReader(stream)
    ends: list[int] = []
    wanted = set(reader.head.header.tensors)
    while (place := reader.next_range) is not None:
        reader.feed(stream[place[0] : place[1]])
        if ends or set(reader.result().tensors) == wanted:
            ends.append(place[1])
    if len(ends) <= MAX_CUTS:
        return ends
    aims = np.geomspace(ends[0], ends[-1], MAX_CUTS)
    return sorted({min(ends, key=lambda end: abs(end - aim)) for aim in aims})
