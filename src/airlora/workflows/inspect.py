"""Looking into a finished run: measuring it at other ranks, and showing what it decided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airlora.errors import RankPatternError, SettingsError
from airlora.files import read_bytes, write_bytes
from airlora.ranks import RankPattern
from airlora.tasks import Dataset
from airlora.training import OpenRun, OpenStream, RunFolder, open_run, open_stream, read_stream_bytes
from airlora.workflows.pack import read_earlier

__all__ = ["evaluate_run", "inspect_run"]


def evaluate_run(
    run: Path | str,
    *,
    data: str | None = None,
    rank: int | None = None,
    rank_pattern: str | None = None,
    predictions: Path | None = None,
    max_bytes: int | None = None,
    model: str | None = None,
    since: Path | str | None = None,
) -> dict[str, Any]:
    """Return the metrics of the task, `num_params` and `num_samples` of a run at a rank pattern, at full precision.

    Of a stream also `payload_bytes`: those that were used.

    Args:
        run: Folder of a finished run, or the file of a stream.
        data: Data for the run's task; the default is the run's own evaluation data. A stream has none.
        rank: The same rank in every module.
        rank_pattern: A JSON object of module name to rank, or the path of a file with one. Without `rank` and
            `rank_pattern` it is the run's own.
        predictions: File that gets one JSON object a line, target and prediction, in the order of the data.
        max_bytes: Of a stream, use only the first whole segments within so many bytes.
        model: Of a stream, its base model, see `open_stream`.
        since: Of a delta, the file of the stream that it starts from.

    Raises:
        AirloraError: Run, data or pattern are not usable; the message names which.
    """
    if rank is not None and rank_pattern is not None:
        raise SettingsError("give --rank or --rank-pattern, not both")
    opened: OpenRun | OpenStream
    payload_bytes = {}
    if Path(run).is_file():
        if rank is not None or rank_pattern is not None:
            raise SettingsError("a stream is cut by --upto: leave --rank and --rank-pattern out")
        data_bytes = read_stream_bytes(run, max_bytes=max_bytes)
        opened = open_stream(data_bytes, model=model, base=read_earlier(since))
        pattern, payload_bytes = opened.decoded.rank_pattern, {"payload_bytes": opened.decoded.bytes_used}
    elif max_bytes is not None or since is not None:
        name, value = ("upto", max_bytes) if max_bytes is not None else ("since", str(since))
        raise SettingsError.of(name, value, "given with the file of a stream")
    else:
        opened = open_run(run)
        pattern = opened.record.rank_pattern
    if rank is not None:
        pattern = RankPattern.constant(opened.adapted.shapes, rank)
    elif rank_pattern is not None:
        pattern = _read_pattern(rank_pattern)
    pattern.verify(opened.adapted.shapes, opened.adapted.r_max)
    found = opened.predict(read_data(opened, data), pattern)
    if predictions is not None:
        write_bytes(predictions, "".join(json.dumps(row) + "\n" for row in found.rows()).encode())
    evaluation = found.evaluation
    return {
        **evaluation.values,
        "num_params": pattern.num_params(opened.adapted.shapes),
        "num_samples": evaluation.num_samples,
    } | payload_bytes


def inspect_run(run: Path | str) -> dict[str, Any]:
    """Return what a run decided and what that costs, from its record alone."""
    record = RunFolder(run).record()
    return {
        "rank_pattern": record.rank_pattern.to_dict(),
        "modules": dict(record.modules),
        "policy": {"name": record.policy, "link": dict(record.link)},
        "model": {
            "name": record.model,
            "fingerprint": record.fingerprint,
            "task": record.task.name,
            **record.task.model_dump(mode="json"),
        },
        **record.metrics,
        "num_params": record.num_params,
        "paper_num_params": record.paper_num_params,
        "num_head_params": record.num_head_params,
        "steps": record.steps,
        "text": dict(record.text),
    }


def read_data(opened: OpenRun | OpenStream, source: str | None) -> Dataset:
    if source is None and isinstance(opened, OpenStream):
        raise SettingsError("data: a stream carries none to measure on; give --data")
    return opened.task.read(opened.settings.data, source)


def _read_pattern(text: str) -> RankPattern:
    if text.lstrip().startswith("{"):
        return RankPattern.from_json(text)
    try:
        return RankPattern.from_json(read_bytes(text, "rank pattern", RankPatternError).decode())
    except UnicodeDecodeError as error:
        raise RankPatternError(f"rank pattern {text}: not UTF-8 text") from error
