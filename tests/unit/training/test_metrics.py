from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from airlora.errors import CheckpointError
from airlora.training import MetricsLog, read_metrics


def test_lines_are_read_back_as_plain_values(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write("eval", 3, {"accuracy": np.float64(0.5), "ranks": np.arange(2), "loss": float("nan")})
    assert read_metrics(tmp_path) == [{"kind": "eval", "step": 3, "accuracy": 0.5, "ranks": [0, 1], "loss": None}]


def test_a_resumed_log_drops_the_lines_after_the_checkpoint(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, tensorboard=False) as log:
        for step in range(4):
            log.write("learn", step, {})
    with MetricsLog(tmp_path, tensorboard=False, num_lines=2) as log:
        log.write("learn", 9, {})
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1, 9]


def test_tensorboard_reads_the_numbers(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, tensorboard=True) as log:
        log.write("learn", 1, {"reward": -0.5, "note": "text"})
        log.write("learn", 2, {"reward": -0.25})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("learn/reward")] == [(1, -0.5), (2, -0.25)]


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"kind": ')
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_metrics(tmp_path)
