"""A stream taken up on the device's side: its base model with as much of the adapter as came."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from airlora.adapters import EMBEDDED_MODEL, AdaptedModel, LowRankUpdate, install_updates
from airlora.codec import DecodedStream, cut, decode_stream
from airlora.errors import AdapterError, CodecError, ModelError
from airlora.files import read_bytes
from airlora.ranks import RankPattern
from airlora.tasks import EncodedData, Predictions, encode, load_adapted, make_vocabulary, predict
from airlora.text import TextDataset
from airlora.training.settings import Settings, with_values
from airlora.training.stream_metadata import settings_of_stream

__all__ = ["OpenStream", "open_stream", "read_stream_bytes"]


@dataclass
class OpenStream:
    """A stream with its model in memory.

    Args:
        decoded: What came.
        settings: That the stream asks for.
        label_names: Names of the classes, in order.
        adapted: The base model computing with the stream's components, scale 1.
        tokenizer: The model's.
        device: Where the model is.
    """

    decoded: DecodedStream
    settings: Settings
    label_names: tuple[str, ...]
    adapted: AdaptedModel
    tokenizer: Any
    device: torch.device

    def predict(self, data: TextDataset, pattern: RankPattern | None = None) -> Predictions:
        """Return the logits of every sample, at full precision; at other ranks than the stream's if asked."""
        self.adapted.set_ranks(self.decoded.rank_pattern if pattern is None else pattern)
        return predict(self.adapted.model, self.encode(data), self.device, self.settings.finetune.eval_batch_size)

    def encode(self, data: TextDataset) -> EncodedData:
        """Return samples as the model takes them."""
        vocabulary = make_vocabulary(self.settings, self.tokenizer)
        return encode(data, self.tokenizer, vocabulary, self.settings.data.max_length)


def read_stream_bytes(path: Path | str, *, max_bytes: int | None = None) -> bytes:
    """Return the bytes of a stream's file, or those of its first whole segments within `max_bytes`.

    Raises:
        CodecError: The file is missing or no stream, or its head alone is larger than `max_bytes`.
    """
    data = read_bytes(path, "stream", CodecError)
    return data if max_bytes is None else cut(data, max_bytes)


def open_stream(data: bytes, *, model: str | None = None, base: DecodedStream | None = None) -> OpenStream:
    """Return the stream, or as much of it as there is, in its base model.

    A stream says which base model it was made for, but nothing is fetched on the word of a stream: unless it is the
    embedded one, the caller names it.

    Args:
        data: A stream or its first bytes.
        model: Name or folder of the base model; the default is the embedded model, if the stream was made for it.
        base: The adapter that the device holds, for a delta stream.

    Raises:
        CodecError: The stream is damaged, foreign or newer, or was cut before the model's head was whole.
        ModelError: The base model is not there, or has to be named.
        AdapterError: The base model is not the one that the stream was made with, or it has other modules.
    """
    decoded = decode_stream(data, base=base)
    header = decoded.header
    settings, label_names = settings_of_stream(header.metadata)
    if model is None and settings.model.name != EMBEDDED_MODEL:
        raise ModelError(f"stream: made for the base model {settings.model.name}; give its folder or name by --model")
    if not header.modules:
        raise CodecError("stream: adapts no module")
    if missing := [name for name in header.tensors if name not in decoded.tensors]:
        raise CodecError.of(
            "stream: bytes", decoded.bytes_used, f"more, up to the model's head: {missing[0]} has not come"
        )
    if header.tensors and len(label_names) not in {shape[0] for shape in header.tensors.values()}:
        raise CodecError.of("stream: number of labels", len(label_names), "that of the head's outputs")
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
    adapted, tokenizer, fingerprint, device = load_adapted(settings, len(label_names))
    if fingerprint != header.base_fingerprint:
        wanted = header.base_fingerprint[:12]
        raise AdapterError(f"stream: made for the base model {wanted}, {settings.model.name} is {fingerprint[:12]}")
    if dict(header.modules) != adapted.shapes:
        unknown = sorted(set(header.modules) ^ set(adapted.shapes)) or ["shapes"]
        raise AdapterError(f"stream: adapts other modules than {settings.model.name} has, such as {unknown[0]}")
    updates = {name: LowRankUpdate(U, V) for name, (U, V) in decoded.modules.items()}
    install_updates(adapted, updates, decoded.tensors)
    return OpenStream(decoded, settings, label_names, adapted, tokenizer, device)
