"""Settings of the base model and of the data."""

from __future__ import annotations

from typing import Literal, Protocol, Self

from pydantic import Field, model_validator

from airlora.adapters import AdapterSettings
from airlora.settings.fields import PositiveInt, Section

__all__ = ["DataSettings", "LoadSettings", "ModelSettings"]


class ModelSettings(Section):
    """Settings of the base model."""

    name: str = Field("embedded-minilm", description="Base model: `embedded-minilm`, a folder, or an id on the Hub.")
    init: Literal["pretrained", "random"] = Field(
        "pretrained", description="Initial weights. `random` draws all weights."
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = Field(
        "sdpa", description="Attention implementation of transformers."
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Type of the frozen weights.")
    dropout: bool = Field(True, description="Whether the model's own dropout is active in training.")


class DataSettings(Section):
    """Settings of training and evaluation data. Without files, the embedded corpus is used."""

    train: str | None = Field(None, description="Training data: TSV, CSV, JSONL or Parquet file, or `hf:owner/name`.")
    eval: str | None = Field(None, description="Evaluation data. Required together with `data.train`.")
    text_column: str = Field("text", description="Name of the column with the text.")
    label_column: str = Field("label", description="Name of the column with the target.")
    vocabulary: str | None = Field(None, description="File of known words, one per line. None: words of one token.")
    max_length: PositiveInt = Field(128, description="Number of tokens to which a sample is truncated.")
    max_eval_samples: PositiveInt | None = Field(None, description="Maximum number of evaluation samples. None: all.")
    num_train: PositiveInt = Field(6000, description="Number of training samples of the embedded corpus.")
    num_eval: PositiveInt = Field(1000, description="Number of evaluation samples of the embedded corpus.")

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
