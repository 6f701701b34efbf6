import json
from pathlib import Path

import numpy as np
import pytest
import torch

from airlora.errors import DataError
from airlora.tasks import DataSettings, Regression, find_task
from airlora.text import load_scored


def settings(folder: Path, *lines: str) -> DataSettings:
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).write_text("\n".join(["text\tlabel", *lines]) + "\n")
    return DataSettings(name=str(folder))


def test_numbers_are_standardised_by_the_training_data(tmp_path: Path) -> None:
    task, data = Regression.from_data(settings(tmp_path, "a\t1.0", "b\t2", "c\t4.5e0"))
    assert find_task("regression") is Regression
    assert (data.texts, data.values) == (("a", "b", "c"), (1.0, 2.0, 4.5))
    assert (task.mean, task.deviation) == (pytest.approx(2.5), pytest.approx(np.std([1.0, 2.0, 4.5])))
    assert task.read(DataSettings(name=str(tmp_path))).subset([2]).values == (4.5,)


def test_the_metrics_of_a_perfect_prediction() -> None:
    task, values = Regression(mean=3.0, deviation=2.0), [1.0, 5.0, 2.0]
    perfect = [torch.tensor([(value - 3.0) / 2.0]) for value in values]
    assert task.score(perfect, values) == pytest.approx({"pearson": 1.0, "spearman": 1.0, "loss": 0.0})
    opposite = task.score([-own for own in perfect], values)
    assert (opposite["pearson"], opposite["spearman"]) == (pytest.approx(-1.0), pytest.approx(-1.0))
    assert [row["prediction"] for row in task.rows(perfect, values)] == pytest.approx(values)
    logits, batch = torch.stack(perfect), {"labels": torch.tensor(values, dtype=torch.float64)}
    assert task.loss(logits, batch).item() == pytest.approx(0.0)
    assert task.loss(logits + 1, batch).item() == pytest.approx(1.0)
    assert task.distillation_loss(logits + 1, logits, batch).item() == pytest.approx(1.0)


def test_a_constant_prediction_has_no_correlation() -> None:
    task = Regression(mean=0.0, deviation=1.0)
    assert task.score([torch.zeros(1)] * 3, [1.0, 2.0, 3.0])["pearson"] == 0.0


@pytest.mark.parametrize(
    ("line", "message"),
    [("x\tgood", r"line 3, column label = 'good': allowed is a finite number"), ("x\tnan", r"column label = 'nan'")],
)
def test_labels_that_are_no_numbers_are_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Regression.from_data(settings(tmp_path, "a\t1.0", line))


def test_equal_and_too_large_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"all numbers are 0.1"):
        Regression.from_data(settings(tmp_path, "a\t0.1", "b\t0.1", "c\t0.1"))
    with pytest.raises(DataError, match=r"largest number = 1e\+300"):
        Regression.from_data(settings(tmp_path, "a\t1e300", "b\t-1e300"))
    (tmp_path / "big.jsonl").write_text(json.dumps({"text": "a", "label": 10**400}) + "\n")
    with pytest.raises(DataError, match=r"allowed is a finite number"):
        load_scored(tmp_path / "big.jsonl")
    with pytest.raises(DataError, match=r"all numbers are 2"):
        Regression.from_data(settings(tmp_path, "a\t2", "b\t2"))
