"""Log of a run's metrics, as JSON lines and for TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from airlora.errors import CheckpointError, StorageError
from airlora.files import read_bytes, write_bytes

__all__ = ["MetricsLog", "read_metrics"]


class MetricsLog:
    """Writer of `metrics.jsonl`, one JSON object per line, and of TensorBoard event files.

    Args:
        folder: Folder of the run.
        tensorboard: Whether to write event files to `folder/tensorboard`.
        num_lines: Number of lines of an existing `metrics.jsonl` to keep. A resumed run drops the lines after its
            checkpoint.

    Raises:
        StorageError: The files cannot be written.
    """

    FILE = "metrics.jsonl"

    def __init__(self, folder: Path, *, tensorboard: bool, num_lines: int = 0) -> None:
        self.num_lines = num_lines
        path = folder / self.FILE
        kept = read_bytes(path, "metrics").splitlines(keepends=True)[:num_lines] if num_lines else []
        write_bytes(path, b"".join(kept))
        try:
            self._file = path.open("a", encoding="utf-8")
            self._writer = (
                SummaryWriter(str(folder / "tensorboard"), purge_step=num_lines or None) if tensorboard else None
            )
        except OSError as error:
            raise StorageError(f"cannot write metrics in {folder}: {error.strerror}") from error

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append a line `{"kind", "step", ...values}`.

        Args:
            kind: "finetune", "learn", "update" or "eval"; also the prefix of the TensorBoard tags.
            step: Number of the fine-tuning or environment step.
            values: Numbers, strings and lists. A number that is not finite is written as null.

        Raises:
            StorageError: The file cannot be written.
        """
        line = {"kind": kind, "step": step} | {key: _plain(value) for key, value in values.items()}
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(f"cannot write {self._file.name}: {error.strerror}") from error
        self.num_lines += 1
        if self._writer is not None:
            for key, value in line.items():
                if isinstance(value, int | float) and key != "step":
                    self._writer.add_scalar(f"{kind}/{key}", value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_metrics(folder: Path | str) -> list[dict[str, Any]]:
    """Return the lines of a run's `metrics.jsonl`.

    Args:
        folder: Folder of the run.

    Raises:
        CheckpointError: The file is missing or a line is damaged.
    """
    path = Path(folder) / MetricsLog.FILE
    lines = read_bytes(path, "metrics", CheckpointError).splitlines()
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise CheckpointError(f"metrics {path}: a line is not valid JSON ({error})") from error


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
