"""Settings of the base model and of the data."""

from __future__ import annotations

from typing import Literal, Protocol, Self

from pydantic import model_validator

from airlora.adapters import AdapterSettings
from airlora.settings.fields import PositiveInt, Section

__all__ = ["DataSettings", "LoadSettings", "ModelSettings"]


class ModelSettings(Section):
    """Settings of the base model."""

    name: str = "embedded-minilm"
    """Base model: `embedded-minilm`, a folder, or a Hugging Face id."""
    init: Literal["pretrained", "random"] = "pretrained"
    """`pretrained` loads the weights. `random` loads configuration and tokenizer and draws the weights, for tests."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    """Attention implementation of transformers. On a CPU, `eager` is faster for short padded texts."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the frozen base weights."""
    dropout: bool = True
    """Keep the base model's own dropout while an adapter is trained. Applies to PEFT's baselines, too."""


class DataSettings(Section):
    """Settings of the training and evaluation data."""

    train: str | None = None
    """Training data: a TSV, CSV, JSONL or Parquet file, or `hf:owner/name`. None uses the embedded corpus."""
    eval: str | None = None
    """Held-out data that accuracy is measured on, in the same formats. Required with `data.train`."""
    text_column: str = "text"
    """Name of the column that holds the text."""
    label_column: str = "label"
    """Name of the column that holds the label."""
    vocabulary: str | None = None
    """File of known words, one a line, for the OOV rate. None counts a word as known if it is one token of the
    model."""
    max_length: PositiveInt = 128
    """Tokens kept of each sample. Longer samples are truncated."""
    max_eval_samples: PositiveInt | None = None
    """Samples used of `data.eval`, the first ones. None uses all."""
    num_train: PositiveInt = 6000
    """Training samples of the embedded corpus."""
    num_eval: PositiveInt = 1000
    """Held-out samples of the embedded corpus."""

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.train is None) != (self.eval is None):
            raise ValueError("data.train and data.eval are given together or not at all")
        return self


class LoadSettings(Protocol):
    """Settings that loading a base model and its adapter requires. `Settings` of a run is one."""

    @property
    def seed(self) -> int:
        """Seed of randomly initialised weights and of the adapter."""
        ...

    @property
    def num_threads(self) -> int:
        """Number of CPU threads. 0 uses all cores."""
        ...

    @property
    def device(self) -> str:
        """Name of the torch device, or `auto`."""
        ...

    @property
    def model(self) -> ModelSettings:
        """Section of the base model."""
        ...

    @property
    def data(self) -> DataSettings:
        """Section of the data."""
        ...

    @property
    def adapter(self) -> AdapterSettings:
        """Section of the adapter."""
        ...
