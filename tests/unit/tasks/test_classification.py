import math
from pathlib import Path

import numpy as np
import pytest
import torch

from airlora.errors import SettingsError
from airlora.settings.loading import validate
from airlora.tasks import Classification, DataSettings, Predictions, find_metrics, find_task

TASK = Classification(label_names=("negative", "positive"))


def test_a_task_is_found_by_its_name() -> None:
    assert find_task("classification") is Classification
    with pytest.raises(SettingsError, match="task = 'poetry': allowed is one of .*classification"):
        find_task("poetry")


def test_metrics_are_found_by_their_names() -> None:
    metrics = find_metrics(["loss", "num_params", "accuracy"])
    assert [metric.text(0.5) for metric in metrics] == ["50.00%", "0.5000 nats"]
    assert find_metrics(["num_params"]) == ()


def test_a_task_is_made_again_from_its_stored_fields() -> None:
    stored = TASK.model_dump(mode="json")
    assert stored == {"label_names": ["negative", "positive"]}
    assert validate(Classification, {**stored, "other": 1}) == TASK


@pytest.mark.parametrize("stored", [{}, *({"label_names": names} for names in (None, [], ["one"], "ab", [1, 2]))])
def test_invalid_stored_fields_are_refused(stored: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="^label_names"):
        validate(Classification, stored)


def test_label_names_come_from_the_training_data_and_hold_for_held_out_data(tmp_path: Path) -> None:
    train, held_out = tmp_path / "train.tsv", tmp_path / "eval.tsv"
    train.write_text("label\ttext\nbad\ta\ngood\tb\n")
    held_out.write_text("label\ttext\n" + "good\tc\n" * 3)
    settings = DataSettings(train=str(train), eval=str(held_out), max_eval_samples=2)
    task, data = Classification.from_data(settings)
    assert task.label_names == ("bad", "good")
    assert data.labels == (0, 1)
    assert task.read(settings).labels == (1, 1)
    assert len(task.read(settings, str(held_out))) == 3


def test_without_files_the_embedded_corpus_is_read() -> None:
    settings = DataSettings(num_train=20, num_eval=10)
    task, data = Classification.from_data(settings)
    assert (len(data), len(task.read(settings))) == (20, 10)


def test_scores_are_accuracy_and_cross_entropy() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    found = Predictions(TASK, logits, [1, 1]).evaluation
    assert found.values == {"accuracy": 0.5, "loss": pytest.approx((math.log(4 / 3) + math.log(2)) / 2)}
    assert (found.score, found.primary.name, found.num_samples) == (0.5, "accuracy", 2)


def test_loss_and_score_agree() -> None:
    logits, labels = torch.randn(7, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    loss = TASK.loss(logits, {"labels": labels})
    assert float(loss) == pytest.approx(Predictions(TASK, logits, labels.tolist()).evaluation.loss, abs=1e-6)
    assert TASK.num_targets({"labels": labels}) == 7


def test_the_distillation_loss_is_zero_at_the_teachers_probabilities_alone() -> None:
    teacher = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    batch = {"labels": torch.zeros(5, dtype=torch.int64)}
    assert float(TASK.distillation_loss(teacher + 3.0, teacher, batch)) == pytest.approx(0.0, abs=1e-6)
    assert float(TASK.distillation_loss(-teacher, teacher, batch)) > 0.1


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"classifier.weight": (2, 8), "classifier.bias": (2,)}, ["classifier.weight", "classifier.bias"]),
        ({"score.weight": (2, 8)}, ["score.weight"]),
        ({"dense.weight": (2, 8), "dense.bias": (2,), "out.weight": (2, 2), "out.bias": (2,)}, []),
        ({"dense.weight": (8, 8), "dense.bias": (8,)}, []),
        ({}, []),
    ],
)
def test_the_layer_of_the_logits_is_found_if_there_is_one(
    shapes: dict[str, tuple[int, ...]], expected: list[str]
) -> None:
    assert TASK.logit_tensors({name: np.zeros(shape) for name, shape in shapes.items()}) == expected
