"""A finished run, taken up again: its model with its adapter, and its policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from airlora.adapters import AdaptedModel, load_adapter
from airlora.errors import AdapterError
from airlora.ranks import RankPattern
from airlora.tasks import Predictions, encode, load_adapted, make_vocabulary, predict
from airlora.text import TextDataset
from airlora.training.run import RunFolder, RunRecord
from airlora.training.settings import Settings

__all__ = ["OpenRun", "open_run"]


@dataclass
class OpenRun:
    """A finished run with its model in memory.

    Args:
        folder: Where it is kept.
        settings: Of the run.
        record: What it came to.
        adapted: The base model with the run's adapter, at the run's rank pattern.
        tokenizer: The model's.
        device: Where the model is.
    """

    folder: RunFolder
    settings: Settings
    record: RunRecord
    adapted: AdaptedModel
    tokenizer: Any
    device: torch.device

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes, in order."""
        return self.record.label_names

    def predict(self, data: TextDataset, pattern: RankPattern | None = None) -> Predictions:
        """Return the logits of every sample, at full precision.

        Args:
            data: With the run's labels.
            pattern: Ranks to use; the default is the run's own.

        Raises:
            RankPatternError: The pattern does not fit the run's modules or r_max.
            TrainingError: A logit is not finite.
        """
        self.adapted.set_ranks(self.record.rank_pattern if pattern is None else pattern)
        vocabulary = make_vocabulary(self.settings, self.tokenizer)
        encoded = encode(data, self.tokenizer, vocabulary, self.settings.data.max_length)
        return predict(self.adapted.model, encoded, self.device, self.settings.finetune.eval_batch_size)


def open_run(path: Path | str) -> OpenRun:
    """Return a finished run with its model and adapter loaded; its training data are not needed.

    Raises:
        CheckpointError: There is no finished run, or its record is damaged.
        ModelError: The base model is not there.
        AdapterError: The adapter is damaged, or the base model is not the one that the run was made with.
    """
    folder = RunFolder(path)
    settings, record = folder.settings(), folder.record()
    adapted, tokenizer, fingerprint, device = load_adapted(settings, len(record.label_names))
    if fingerprint != record.fingerprint:
        raise AdapterError(
            f"{folder.path}: made for the base model {record.fingerprint[:12]}, {settings.model.name} is now "
            f"{fingerprint[:12]}"
        )
    load_adapter(adapted, folder.adapter_path)
    adapted.set_ranks(record.rank_pattern)
    return OpenRun(folder, settings, record, adapted, tokenizer, device)
