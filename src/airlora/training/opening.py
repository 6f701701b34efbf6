"""Loading of a finished run: its model with adapter, and its policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from airlora.adapters import EMBEDDED_MODEL, AdaptedModel, LowRankUpdate, install_updates, load_adapter
from airlora.codec import DecodedStream, decode_stream, truncate
from airlora.errors import AdapterError, CodecError, ModelError
from airlora.files import read_bytes
from airlora.identity import is_same_base
from airlora.ranks import RankPattern
from airlora.tasks import Dataset, EncodedData, Predictions, Task, load_adapted, make_vocabulary, predict
from airlora.training.run import RunFolder, RunRecord
from airlora.training.settings import Settings, with_values
from airlora.training.stream_metadata import settings_of_stream

__all__ = ["OpenRun", "OpenStream", "open_run", "open_stream", "read_stream_bytes"]


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
    if not is_same_base(record.fingerprint, fingerprint):
        raise AdapterError(
            f"{folder.path}: made for the base model {record.fingerprint[:12]}, {settings.model.name} is now "
            f"{fingerprint[:12]}"
        )
    load_adapter(adapted, folder.adapter_path)
    adapted.set_ranks(record.rank_pattern)
    return OpenRun(folder, settings, record, adapted, tokenizer, device)


@dataclass
class OpenStream:
    """A stream with its model in memory.

    Args:
        decoded: Decoded components and head.
        settings: Settings in the stream's metadata, over the defaults.
        task: Task in the stream's metadata.
        adapted: Base model with the stream's components, at scale 1.
        tokenizer: Tokenizer of the model.
        device: Device of the model.
    """

    decoded: DecodedStream
    settings: Settings
    task: Task
    adapted: AdaptedModel
    tokenizer: Any
    device: torch.device

    def predict(self, data: Dataset, pattern: RankPattern | None = None) -> Predictions:
        """Return the model's outputs for every sample, in float32.

        Args:
            data: Samples for the stream's task, see `Task.read`.
            pattern: Rank of each adapted module. None stands for the stream's own ranks.

        Raises:
            RankPatternError: The pattern does not fit the stream's modules.
            TrainingError: A logit is not finite.
        """
        self.adapted.set_ranks(self.decoded.rank_pattern if pattern is None else pattern)
        return predict(self.adapted.model, self.encode(data), self.device, self.settings.finetune.eval_batch_size)

    def encode(self, data: Dataset) -> EncodedData:
        """Return samples as token ids."""
        vocabulary = make_vocabulary(self.settings, self.tokenizer)
        return self.task.encode(data, self.tokenizer, vocabulary, self.settings.data.max_length)


def read_stream_bytes(path: Path | str, *, max_bytes: int | None = None) -> bytes:
    """Return the bytes of a stream file, or its longest prefix of whole segments within a limit.

    Args:
        path: File of the stream.
        max_bytes: Maximum number of bytes. None reads the whole file.

    Raises:
        CodecError: The file is missing or no stream, or its header alone exceeds `max_bytes`.
    """
    data = read_bytes(path, "stream", CodecError)
    return data if max_bytes is None else truncate(data, max_bytes)


def open_stream(data: bytes, *, model: str | None = None, base: DecodedStream | None = None) -> OpenStream:
    """Return a stream, or a prefix of one, loaded into its base model.

    The metadata of a stream name its base model. Only the embedded model is loaded by that name; the caller must name
    any other, so that a stream cannot cause a download. The base model may be one whose weights are those of the sender
    after rounding to bfloat16.

    Args:
        data: Stream or prefix of a stream.
        model: Name or folder of the base model. None stands for the embedded model.
        base: Adapter that the device already holds, for a delta stream.

    Raises:
        CodecError: The stream is damaged, foreign or of a newer version, or the prefix lacks a tensor of the
            classification head.
        ModelError: The base model is missing, or must be named by `model`.
        AdapterError: The base model is another one than that of the stream, or has other modules.
    """
    decoded = decode_stream(data, base=base)
    header = decoded.header
    settings, task = settings_of_stream(header.metadata)
    if model is None and settings.model.name != EMBEDDED_MODEL:
        raise ModelError(f"stream: made for the base model {settings.model.name}; give its folder or name by --model")
    if not header.modules:
        raise CodecError("stream: adapts no module")
    if missing := [name for name in header.tensors if name not in decoded.tensors]:
        raise CodecError(
            f"stream: its first {decoded.bytes_used} bytes lack {missing[0]} of the classification head;"
            " use a longer prefix"
        )
    if header.tensors and task.num_outputs not in {None, *(shape[0] for shape in header.tensors.values())}:
        raise CodecError.of(
            f"stream: outputs of the task {task.name}",
            task.num_outputs,
            "the number of outputs of the classification head",
        )
    rank = max(1, *(V.shape[0] for _, V in decoded.modules.values()))
    settings = with_values(
        settings,
        {
            "model.name": model or settings.model.name,
            "adapter.r_max": rank,
            "adapter.scale": 1.0,
            "policy.constant_rank": min(rank, settings.policy.constant_rank),
        },
    )
    adapted, tokenizer, fingerprint, device = load_adapted(settings, task)
    if not is_same_base(header.base_fingerprint, fingerprint, "bfloat16"):
        wanted = header.base_fingerprint[:12]
        raise AdapterError(f"stream: made for the base model {wanted}, {settings.model.name} is {fingerprint[:12]}")
    if dict(header.modules) != adapted.shapes:
        unknown = sorted(set(header.modules) ^ set(adapted.shapes)) or ["shapes"]
        raise AdapterError(f"stream: adapts other modules than {settings.model.name} has, such as {unknown[0]}")
    updates = {name: LowRankUpdate(U, V) for name, (U, V) in decoded.modules.items()}
    install_updates(adapted, updates, decoded.tensors)
    return OpenStream(decoded, settings, task, adapted, tokenizer, device)
