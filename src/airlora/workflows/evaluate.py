"""Metrics of a finished run or of a stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airlora.errors import RankPatternError, SettingsError
from airlora.files import read_bytes, write_bytes
from airlora.ranks import RankPattern
from airlora.training import OpenStream
from airlora.workflows.open_source import open_source, read_data

__all__ = ["evaluate_run"]


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
    """Return the metrics of the task, `quality`, `num_params` and `num_samples` of a run at a rank pattern.

    The quality is the value from 0 to 1 that releases state, see `Task.quality`.

    For a stream, the result also has `payload_bytes`, the bytes that were used.

    Args:
        run: Folder of a finished run, or file of a stream.
        data: Data for the run's task. None selects the run's evaluation data; a stream has none.
        rank: Rank of every module.
        rank_pattern: JSON object of module names and ranks, or path of a file with one. Without `rank` and
            `rank_pattern`, the run's own pattern applies.
        predictions: File to write, with one JSON object of target and prediction per line in the order of the data.
        max_bytes: For a stream: size of the prefix to read, bytes.
        model: For a stream: name or folder of the base model, see `open_stream`.
        since: For a delta: file of the complete stream that it refers to.

    Raises:
        AirloraError: The run, the stream, the data or the pattern cannot be used.
    """
    if rank is not None and rank_pattern is not None:
        raise SettingsError("give --rank or --rank-pattern, not both")
    if Path(run).is_file() and not (rank is None and rank_pattern is None):
        raise SettingsError("a stream is truncated by --upto: leave --rank and --rank-pattern out")
    opened = open_source(run, max_bytes=max_bytes, model=model, since=since)
    payload_bytes = {"payload_bytes": opened.decoded.bytes_used} if isinstance(opened, OpenStream) else {}
    if rank is not None:
        pattern = RankPattern.constant(opened.adapted.shapes, rank)
    elif rank_pattern is not None:
        pattern = _read_pattern(rank_pattern)
    else:
        pattern = (opened.decoded if isinstance(opened, OpenStream) else opened.record).rank_pattern
    pattern.verify(opened.adapted.shapes, opened.adapted.r_max)
    found = opened.predict(read_data(opened, data), pattern)
    if predictions is not None:
        write_bytes(predictions, "".join(json.dumps(row) + "\n" for row in found.rows()).encode())
    evaluation = found.evaluation
    return {
        **evaluation.values,
        "quality": opened.task.quality(evaluation.values),
        "num_params": pattern.num_params(opened.adapted.shapes),
        "num_samples": evaluation.num_samples,
    } | payload_bytes


def _read_pattern(text: str) -> RankPattern:
    if text.lstrip().startswith("{"):
        return RankPattern.from_json(text)
    try:
        return RankPattern.from_json(read_bytes(text, "rank pattern", RankPatternError).decode())
    except UnicodeDecodeError as error:
        raise RankPatternError(f"rank pattern {text}: not UTF-8 text") from error
