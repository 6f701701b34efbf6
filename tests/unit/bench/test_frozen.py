import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from airlora.bench.frozen import frozen_table, run_frozen_benchmark, summarise_frozen
from airlora.errors import CheckpointError, SettingsError
from airlora.progress import SilentProgress
from airlora.reports.compare import ComparisonRow
from airlora.tasks import Classification, Evaluation
from airlora.training import load_settings, train


def row(policy: str, snr_db: float, loss: float) -> ComparisonRow:
    evaluation = Evaluation({"accuracy": 0.8, "loss": loss}, 50, Classification.metrics[0])
    return ComparisonRow(policy, snr_db, 1e6, {"a": 1}, 100, 90, 10, 440, 0.5, 0.5, evaluation)


def test_gaps_are_differences_on_the_same_run() -> None:
    losses = {"greedy": [0.50, 0.60, 0.40], "allocate": [0.48, 0.57, 0.39]}
    rows = [(run, row(name, 5.0, loss)) for name, values in losses.items() for run, loss in enumerate(values)]
    lines = {line["policy"]: line for line in summarise_frozen(rows)}
    assert lines["allocate"]["loss"] == pytest.approx(0.48)
    assert lines["allocate"]["gap"] == pytest.approx(-0.02)
    # The runs differ much more than the policies on one run: the paired interval is the narrower one.
    expected = stats.t.ppf(0.975, 2) * np.std([-0.02, -0.03, -0.01], ddof=1) / np.sqrt(3)
    assert lines["allocate"]["gap_interval"] == pytest.approx(expected)
    assert lines["allocate"]["interval"] > 5 * expected
    assert lines["greedy"]["gap"] == 0.0


def test_one_run_has_no_interval_and_without_greedy_there_is_no_gap() -> None:
    (line,) = summarise_frozen([(0, row("allocate", 5.0, 0.4))])
    assert (line["interval"], line["gap"], line["gap_interval"]) == (None, None, None)
    table = frozen_table([line])
    assert [column.header for column in table.columns] == ["policy", "5 dB"]


def test_policies_are_benchmarked_on_a_finished_run(
    tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> None:
    settings = load_settings(
        "quick",
        overrides={
            "model.name": str(tiny_model),
            "data.train": str(tiny_data[0]),
            "data.eval": str(tiny_data[1]),
            "data.max_length": 16,
            "adapter.r_max": 4,
            "policy.constant_rank": 2,
            "finetune.steps": 6,
            "finetune.batch_size": 8,
            "finetune.precision": "float32",
            "channel.bandwidth_hz": [2e4],
            "channel.deadline_mode": "price",
            "env.frozen_batch_size": 6,
            "env.frozen_batches": 3,
            "num_threads": 1,
            "tensorboard": False,
        },
    )
    train(settings, tmp_path / "run")
    names = ("allocate", "greedy", "adalora-ranks", "constant")
    summary = run_frozen_benchmark(
        [tmp_path / "run"], names, tmp_path / "out", evaluations=70, watcher=SilentProgress()
    )
    assert {line["policy"] for line in summary} == set(names)
    assert len(summary) == 5 * len(names)
    assert all(line["runs"] == 1 and line["loss"] > 0 for line in summary)
    # Equal budgets, though the run only priced them: at 0 dB 20 kbit/s for 1 s at 32 bit.
    rows = json.loads((tmp_path / "out" / "frozen.json").read_text())
    at_0_db = [row for row in rows if row["snr_db"] == 0.0]
    assert len(at_0_db) == len(names)
    assert all(row["num_params"] + row["num_head_params"] <= 625 for row in at_0_db)
    with pytest.raises(SettingsError, match="'table'.*allowed is one of adalora-ranks, allocate"):
        run_frozen_benchmark([tmp_path / "run"], ("table",), tmp_path / "x", evaluations=70, watcher=SilentProgress())
    with pytest.raises(SettingsError, match="evaluations = 0"):
        run_frozen_benchmark([tmp_path / "run"], names, tmp_path / "x", evaluations=0, watcher=SilentProgress())
    with pytest.raises(CheckpointError):
        run_frozen_benchmark([tmp_path / "none"], names, tmp_path / "x", evaluations=70, watcher=SilentProgress())
    assert not (tmp_path / "x").exists()
