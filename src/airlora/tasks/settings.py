"""Settings of the base model and of the data."""

from __future__ import annotations

from typing import Literal, Protocol, Self

from pydantic import Field, model_validator

from airlora.adapters import AdapterSettings
from airlora.settings.fields import PositiveInt, Section

__all__ = ["DataSettings", "LoadSettings", "ModelSettings"]


class ModelSettings(Section):
    """Which base model is adapted."""

    name: str = Field("embedded-minilm", description="`embedded-minilm`, a folder, or a Hugging Face id")
    init: Literal["pretrained", "random"] = Field("pretrained", description="`random` reads only the configuration")
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="type of the frozen weights")
    dropout: bool = Field(True, description="the model's own, while an adapter is trained; also that of PEFT's")


class DataSettings(Section):
    """What it is fine-tuned on; without files, the embedded corpus."""

    train: str | None = Field(None, description="TSV, CSV, JSONL, Parquet or `hf:owner/name`; none: embedded corpus")
    eval: str | None = None
    text_column: str = "text"
    label_column: str = "label"
    vocabulary: str | None = Field(None, description="one word a line; none: words that are one token of the model")
    max_length: PositiveInt = Field(128, description="tokens kept of a sample")
    max_eval_samples: PositiveInt | None = None
    num_train: PositiveInt = Field(6000, description="size of the embedded corpus")
    num_eval: PositiveInt = 1000

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.train is None) != (self.eval is None):
            raise ValueError("data.train and data.eval are given together or not at all")
        return self


class LoadSettings(Protocol):
    """Settings that loading a base model, its adapter and its data needs; the settings of a run are one."""

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
