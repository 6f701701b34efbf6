"""Loading of a finished run: its model with adapter, and its policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from airlora.adapters import AdaptedModel, load_adapter
from airlora.errors import AdapterError
from airlora.ranks import RankPattern
from airlora.tasks import Dataset, Predictions, Task, load_adapted, make_vocabulary, predict
from airlora.training.run import RunFolder, RunRecord
from airlora.training.settings import Settings

__all__ = ["OpenRun", "open_run"]


@dataclass
class OpenRun:
    """A finished run with its model in memory.

    Args:
        folder: Folder of the run.
        settings: Settings of the run.
        record: Result of the run.
        adapted: Base model with the run's adapter, at the run's rank pattern.
        tokenizer: Tokenizer of the model.
        device: Device of the model.
    """

    folder: RunFolder
    settings: Settings
    record: RunRecord
    adapted: AdaptedModel
    tokenizer: Any
    device: torch.device

    @property
    def task(self) -> Task:
        """Task of the run."""
        return self.record.task

    def predict(self, data: Dataset, pattern: RankPattern | None = None) -> Predictions:
        """Return the model's outputs for every sample, in float32.

        Args:
            data: Samples for the run's task, see `Task.read`.
            pattern: Rank of each adapted module. None stands for the run's own ranks.

        Raises:
            RankPatternError: The pattern does not fit the run's modules or r_max.
            TrainingError: A logit is not finite.
        """
        self.adapted.set_ranks(self.record.rank_pattern if pattern is None else pattern)
        vocabulary = make_vocabulary(self.settings, self.tokenizer)
        encoded = self.task.encode(data, self.tokenizer, vocabulary, self.settings.data.max_length)
        return predict(self.adapted.model, encoded, self.device, self.settings.finetune.eval_batch_size)


def open_run(path: Path | str) -> OpenRun:
    """Return a finished run with its model and adapter loaded. Its training data are not required.

    Args:
        path: Folder of the run.

    Raises:
        CheckpointError: The folder contains no finished run, or the run's record is damaged.
        ModelError: The base model is missing.
        AdapterError: The adapter is damaged, or the base model is another one than that of the run.
    """
    folder = RunFolder(path)
    settings, record = folder.settings(), folder.record()
    adapted, tokenizer, fingerprint, device = load_adapted(settings, record.task)
    if fingerprint != record.fingerprint:
        raise AdapterError(
            f"{folder.path}: made for the base model {record.fingerprint[:12]}, {settings.model.name} is now "
            f"{fingerprint[:12]}"
        )
    load_adapter(adapted, folder.adapter_path)
    adapted.set_ranks(record.rank_pattern)
    return OpenRun(folder, settings, record, adapted, tokenizer, device)
