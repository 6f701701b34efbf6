"""A task of another kind passes through training, evaluation, packing and streams without a change there."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.nn import functional

from airlora.packing import Packing, pack_adapter
from airlora.ranks import RankPattern
from airlora.tasks import DataSettings, EncodedData, Metric, Task, encode_texts, find_metrics, find_task
from airlora.text.readers import open_rows
from airlora.training import (
    RunFolder,
    Settings,
    build_context,
    open_run,
    open_stream,
    read_metrics,
    stream_header,
    train,
)

RMSE = Metric("rmse", higher_is_better=False, digits=3)


class Texts(list[tuple[str, float]]):
    name = "texts"

    def subset(self, indices: Sequence[int]) -> "Texts":
        return Texts(self[index] for index in indices)


class Counting(Task):
    """Prediction of one number for each text."""

    name: ClassVar[str] = "counting"
    metrics: ClassVar[tuple[Metric, ...]] = (RMSE, Metric("loss", higher_is_better=False))
    mean: float

    @property
    def num_outputs(self) -> int:
        return 1

    @classmethod
    def from_data(cls, settings: DataSettings) -> "tuple[Counting, Texts]":
        data = cls(mean=0.0).read(settings, settings.train)
        return cls(mean=float(np.mean([value for _, value in data]))), data

    def read(self, settings: DataSettings, source: str | None = None) -> Texts:
        with open_rows(source or str(settings.eval), settings.text_column, settings.label_column) as rows:
            return Texts((str(row.values[0]), float(str(row.values[1]))) for row in rows.samples)

    def encode(self, data: Texts, tokenizer: Any, vocabulary: Any, max_length: int) -> EncodedData:
        texts, values = zip(*data, strict=True)
        return encode_texts(self, texts, values, data.name, tokenizer, vocabulary, max_length)

    def loss(self, logits: torch.Tensor, batch: Any) -> torch.Tensor:
        return functional.mse_loss(self.mean + logits[:, 0], batch["labels"].float())

    def distillation_loss(self, logits: torch.Tensor, teacher_logits: torch.Tensor, batch: Any) -> torch.Tensor:
        return functional.mse_loss(logits, teacher_logits)

    def score(self, outputs: Sequence[torch.Tensor], targets: Sequence[Any]) -> dict[str, float]:
        errors = self.mean + torch.cat(tuple(outputs)).double().numpy() - np.asarray(targets)
        return {"rmse": float(np.sqrt(np.mean(errors**2))), "loss": float(np.mean(errors**2))}

    def rows(self, outputs: Sequence[torch.Tensor], targets: Sequence[Any]) -> Iterator[dict[str, Any]]:
        return ({"value": value, "prediction": float(o)} for value, o in zip(targets, outputs, strict=True))


@pytest.fixture
def chosen(make_settings: Callable[..., Settings], tmp_path: Path) -> Settings:
    generator = np.random.default_rng(0)
    for name, count in (("train.tsv", 200), ("eval.tsv", 40)):
        texts = [generator.choice(["the", "film", "good", "bad"], 5).tolist() for _ in range(count)]
        lines = [f"{10.5 + words.count('good')}\t{' '.join(words)}" for words in texts]
        (tmp_path / name).write_text("\n".join(["label\ttext", *lines]) + "\n")
    overrides = {"task": "counting", "data.train": str(tmp_path / "train.tsv"), "data.eval": str(tmp_path / "eval.tsv")}
    rates = {"finetune.steps": 60, "finetune.learning_rate": 0.02, "finetune.head_learning_rate": 0.02}
    return make_settings(**overrides, **rates, **{"policy.name": "allocate"})


def test_a_task_passes_through_training_evaluation_packing_and_streams(chosen: Settings, tmp_path: Path) -> None:
    assert find_task("counting") is Counting
    record = train(chosen, tmp_path / "run")
    assert RunFolder(tmp_path / "run").record() == record
    assert record.task == Counting(mean=record.task.mean)
    assert record.task.mean > 10.0
    assert find_metrics(record.to_dict()) == Counting.metrics
    evaluations = [line["rmse"] for line in read_metrics(tmp_path / "run") if line["kind"] == "eval"]
    assert evaluations[-1] < evaluations[0]
    run = open_run(tmp_path / "run")
    held_out = run.task.read(chosen.data)
    found = run.predict(held_out)
    assert found.evaluation.score == pytest.approx(record.metrics["rmse"])
    assert found.rows()[3]["value"] == held_out[3][1]
    context = build_context(chosen)
    header = stream_header(run.adapted, chosen, context.fingerprint, run.task)
    compute = chosen.compute_options(context.device)
    packed = pack_adapter(run.adapted, header, Packing(max_distortion=0.001), compute, calibration=context.calibration)
    stream = open_stream(packed, model=chosen.model.name)
    assert stream.task == run.task
    assert stream.settings.task == "counting"
    full = run.predict(held_out, RankPattern.constant(record.shapes, chosen.adapter.r_max))
    assert stream.predict(held_out).evaluation.score == pytest.approx(full.evaluation.score, rel=0.05)
